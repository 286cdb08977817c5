"""An HTTP server on loopback whose one handler a test chooses."""

from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedServer:
    """A server whose one handler can be changed."""

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self.url, self.port = "", 0
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        assert self.handler is not None
        return await self.handler(request)

    def answers(self, *answers: tuple[int, Any, dict[str, str]] | tuple[int, Any]) -> None:
        """One after the other; the last one again and again."""
        left = list(answers)

        async def handler(_: web.Request) -> web.Response:
            status, body, *headers = left.pop(0) if len(left) > 1 else left[0]
            return web.json_response(body, status=status, headers=headers[0] if headers else {})

        self.handler = handler
