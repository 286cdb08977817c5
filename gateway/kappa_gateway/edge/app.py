"""Everything that the gateway serves: the data path first, then the FastAPI app with health, metrics and documentation."""

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from kappa_core.errors import InvalidRequest, KappaError
from kappa_gateway.answers import Receive, Scope, Send, new_request_id, send_error
from kappa_gateway.data_path import DataPath
from kappa_gateway.events.api import add_async_routes, describe
from kappa_gateway.openapi import add_data_path_routes

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway


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


def make_api(gateway: "Gateway", data_path: DataPath) -> FastAPI:
    """The FastAPI app: documentation of everything, and the routes that are not on the data path."""
    from kappa_gateway import __version__

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
    api.state.gateway = gateway

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
        known = sum(function.function is not None for function in gateway.registry)
        if gateway.ready:
            return Readiness(status="ok", functions=known)
        response.status_code = 503
        return Readiness(status="stopping" if gateway.draining else "not synced", functions=known)

    @api.get(
        "/metrics",
        tags=["operations"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format, or OpenMetrics."}},
    )
    async def metrics(request: Request) -> Response:
        body, content_type = await asyncio.to_thread(gateway.metrics.render, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    add_data_path_routes(api, data_path)
    add_async_routes(api, gateway)
    api.add_exception_handler(KappaError, _refuse)
    api.add_exception_handler(RequestValidationError, _refuse)
    return api


def make_app(gateway: "Gateway") -> DataPath:
    """The ASGI app that the server runs."""
    data_path = DataPath(gateway)
    api = make_api(gateway, data_path)

    async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
        await api(scope, receive, send)  # type: ignore[arg-type]  # ASGI's messages are plain dicts here

    data_path.fallback = fallback
    return data_path
