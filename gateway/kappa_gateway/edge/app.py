"""The FastAPI app: documentation of everything, and the routes that are not on the data path."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from kappa_core.errors import InvalidRequest, KappaError
from kappa_gateway import __version__
from kappa_gateway.edge.answers import new_request_id, send_error
from kappa_gateway.edge.asgi import App, Receive, Scope, Send
from kappa_gateway.edge.async_api import AsyncApi, describe
from kappa_gateway.edge.metrics import Metrics
from kappa_gateway.edge.openapi import add_data_path_routes
from kappa_gateway.edge.readiness import GatewayReadiness


class Health(BaseModel):
    """The process runs and its event loop turns."""

    status: str = Field(description="Always `ok`.", examples=["ok"])


class Readiness(BaseModel):
    """Whether requests should be sent here."""

    status: str = Field(description="`ok`, `not synced` or `stopping`.", examples=["ok"])
    functions: int = Field(description="Functions that this gateway knows.", examples=[12])


class _Refusal(Response):
    """An error in Lambda's form, as the data path writes it."""

    def __init__(self, error: KappaError) -> None:
        super().__init__()
        self._error = error

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send_error(send, self._error, new_request_id(), is_head=scope["method"] == "HEAD")


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        # the first part of a place says whether it is in the path, the query or the headers
        problems = [{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]
        error = InvalidRequest(describe(problems))
    assert isinstance(error, KappaError)
    return _Refusal(error)


def make_app(
    lambda_api: App, function_urls: App, async_api: AsyncApi, metrics: Metrics, readiness: GatewayReadiness
) -> App:
    """`lambda_api` and `function_urls` are documented here, and served by the data path."""
    api = FastAPI(
        title="Kappa gateway",
        version=__version__,
        summary="Lambda-like functions on Kubernetes: invoke them as AWS Lambda's clients do, or as web pages.",
        openapi_tags=[
            {"name": "invoke", "description": "AWS Lambda's Invoke API: point any AWS SDK's endpoint here."},
            {"name": "url", "description": "Functions as web pages: Lambda's function URLs."},
            {"name": "async", "description": "What became of asynchronous invocations; redrive and purge."},
            {"name": "operations", "description": "For probes and monitoring."},
        ],
    )

    @api.get("/healthz", tags=["operations"], summary="Is the process alive?")
    async def healthz() -> Health:
        return Health(status="ok")

    @api.get(
        "/readyz",
        tags=["operations"],
        summary="May requests be sent here?",
        responses={503: {"model": Readiness, "description": "Not yet, or no longer."}},
    )
    async def readyz(response: Response) -> Readiness:
        if not readiness.is_ready:
            response.status_code = 503
        return Readiness(status=readiness.status, functions=readiness.functions)

    @api.get(
        "/metrics",
        tags=["operations"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format, or OpenMetrics."}},
    )
    async def scrape(request: Request) -> Response:
        body, content_type = await asyncio.to_thread(metrics.render, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    add_data_path_routes(api, lambda_api, function_urls)
    async_api.add_routes(api)
    api.add_exception_handler(KappaError, _refuse)
    api.add_exception_handler(RequestValidationError, _refuse)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await api(scope, receive, send)  # type: ignore[arg-type]  # ASGI's messages are plain dicts here

    return app
