"""The ASGI app ahead of FastAPI's router: invocations and function URLs are served here, all else is passed to FastAPI.

FastAPI's router and its answers cost several times what an invocation costs, so they stay out of its way.
"""

from kappa_gateway.edge import lambda_api
from kappa_gateway.edge.asgi import App, Receive, Scope, Send
from kappa_gateway.edge.target import PREFIX as URL_PREFIX


class DataPath:
    """`fallback` serves what is neither an invocation nor a function URL."""

    def __init__(self, lambda_api: App, function_urls: App, fallback: App) -> None:
        self._lambda_api = lambda_api
        self._function_urls = function_urls
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["raw_path"]
            if path.startswith(lambda_api.PREFIX):
                if path.endswith(lambda_api.SUFFIX) and scope["method"] == "POST":
                    return await self._lambda_api(scope, receive, send)
            elif path.startswith(URL_PREFIX):
                return await self._function_urls(scope, receive, send)
        return await self._fallback(scope, receive, send)
