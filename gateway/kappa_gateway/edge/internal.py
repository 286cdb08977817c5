"""What the gateway serves on its internal port, to the operator, to pool pods and to the other gateways."""

import asyncio
import json
import time
from collections.abc import Callable

from kappa_core import wire
from kappa_core.demand import encode
from kappa_gateway.answers import Receive, Scope, Send
from kappa_gateway.demand import Overrun
from kappa_gateway.forwarding import header
from kappa_gateway.gateway import Gateway
from kappa_gateway.pools import loans


def internal_app(gateway: Gateway) -> Callable[[Scope, Receive, Send], object]:
    """`GET /v1/demand`: NDJSON for as long as the reader keeps up. `GET /v1/code/{sha256}`: an archive for a pool pod.
    `POST /v1/loans`: another gateway asks for a place of a function's `maxReplicas`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(wire.CODE_PATH) and scope["method"] == "GET":
            await _send_code(gateway, scope["path"].removeprefix(wire.CODE_PATH), send)
            return
        if scope["path"] == wire.LOANS_PATH and scope["method"] == "POST":
            await _lend(gateway, scope, receive, send)
            return
        if scope["path"] != wire.DEMAND_PATH or scope["method"] != "GET":
            message = f"only GET {wire.DEMAND_PATH}, GET {wire.CODE_PATH} and POST {wire.LOANS_PATH} are served here"
            await _answer(send, 404, message)
            return
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        following = asyncio.create_task(_follow(gateway, send), name="demand reader")
        leaving = asyncio.create_task(_until_disconnect(receive), name="demand reader's end")
        try:
            await asyncio.wait([following, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            following.cancel()
            leaving.cancel()
            await asyncio.gather(following, leaving, return_exceptions=True)
        if following.done() and not following.cancelled() and following.exception() is None:
            await send({"type": "http.response.body"})

    return app


async def _send_code(gateway: Gateway, sha256: str, send: Send) -> None:
    """Whoever knows an archive's hash may have it: the hash is what a Function names and only its pods are told."""
    content = gateway.pools.code.get(sha256)
    status, body = (200, content) if content is not None else (404, b'{"Message":"no such archive is kept here"}')
    kind = b"application/zip" if content is not None else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lend(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more and len(body) <= loans.MAX_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    signer = gateway.pools.sign
    try:
        if signer is None:
            raise loans.Refused("this gateway uses no pools")
        if more:
            raise loans.Refused(f"it is longer than {loans.MAX_BYTES} bytes")
        signature = header(scope["headers"], wire.SIGNATURE.lower().encode())
        request = loans.read(body, signature, lender=gateway.settings.name, now=time.time(), verify=signer.verify)
    except loans.Refused as refused:
        await _answer(send, 403, f"the request is refused: {refused}")
        return
    if gateway.pools.sharing.lend(request):
        await _answer(send, 200, "lent")
    else:
        await _answer(send, 409, "no place is left to lend")


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"Message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _follow(gateway: Gateway, send: Send) -> None:
    reports = gateway.demand.subscribe()
    try:
        async for report in reports:
            await send({"type": "http.response.body", "body": encode(report), "more_body": True})
    except Overrun:
        pass
    finally:
        await reports.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
