"""A web server in an image is a function: this one streams a countdown, repeats what is posted, and echoes
WebSockets."""

import asyncio
import os

from aiohttp import WSMsgType, web

routes = web.RouteTableDef()


@routes.get("/")
async def index(request: web.Request) -> web.Response:
    # the gateway takes /fn/NAMESPACE/NAME off the path, and says so
    prefix = request.headers.get("X-Forwarded-Prefix", "")
    return web.Response(text=f"Ready. Try {prefix}/liftoff\n")


@routes.post("/repeat")
async def repeat(request: web.Request) -> web.Response:
    times = int(request.query.get("times", "1"))
    return web.Response(text=await request.text() * times)


@routes.get("/echo")
async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


@routes.get("/{word}")
async def countdown(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await answer.prepare(request)
    for number in (3, 2, 1):
        await answer.write(f"{number}\n".encode())
        await asyncio.sleep(0.2)
    await answer.write(f"{request.match_info['word']}!\n".encode())
    return answer


app = web.Application()
app.add_routes(routes)
# Kappa sets PORT to spec.code.image.port; on SIGTERM run_app finishes the requests it has.
web.run_app(app, port=int(os.environ.get("PORT", "8080")), print=None)
