"""The ASGI app ahead of FastAPI's router: invocations and function URLs are served here, all else goes on to FastAPI.

FastAPI's router and its answers cost several times what an invocation costs, so they stay out of its way.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kappa_gateway import function_urls, lambda_api
from kappa_gateway.answers import Receive, Scope, Send
from kappa_gateway.function_urls import FunctionUrls
from kappa_gateway.lambda_api import LambdaApi

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body"})


class DataPath:
    """`fallback` serves what is neither an invocation nor a function URL."""

    def __init__(self, gateway: "Gateway") -> None:
        self.lambda_api = LambdaApi(gateway)
        self.function_urls = FunctionUrls(gateway)
        self.fallback: Callable[[Scope, Receive, Send], Awaitable[None]] = _not_found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["raw_path"]
            if path.startswith(lambda_api.PREFIX):
                if path.endswith(lambda_api.SUFFIX) and scope["method"] == "POST":
                    return await self.lambda_api(scope, receive, send)
            elif path.startswith(function_urls.PREFIX):
                return await self.function_urls(scope, receive, send)
        return await self.fallback(scope, receive, send)
