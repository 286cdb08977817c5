"""The data path's operations as ordinary FastAPI routes: their documentation, over the very same code."""

from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from kappa_gateway.edge.asgi import App


class Error(BaseModel):
    """An error as the Lambda API writes it; its name is in the header `x-amzn-errortype`."""

    Type: Literal["User", "Service"] = Field(description="Whose fault it is.")
    Message: str = Field(
        description="What is wrong, where, and how to fix it.",
        examples=["Function not found: there is no Function 'hello' in namespace 'default'"],
    )


class ThrottledError(BaseModel):
    """Too many requests; the header `Retry-After` says in how many seconds to try again."""

    Type: Literal["User"]
    Reason: str = Field(examples=["ConcurrentInvocationLimitExceeded"])
    message: str = Field(examples=["default/hello: 1000 requests wait for a pod already, which is the limit"])


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "A parameter, header or body that cannot be."},
    404: {"model": Error, "description": "No such Function, version or alias."},
    408: {"model": Error, "description": "The body did not arrive in time."},
    413: {"model": Error, "description": "The body is over the limit (by default 6 MB, with Event 1 MiB)."},
    429: {
        "model": ThrottledError,
        "description": "No pod was free in time, too many requests wait, or maxReplicas is 0. "
        "With Event: the queue is full.",
    },
    500: {"model": Error, "description": "The connection to the pod broke; the invocation may have run."},
    502: {
        "model": Error,
        "description": "The Function cannot run (its Ready condition says why), or its answer is malformed.",
    },
    503: {
        "model": Error,
        "description": "This gateway is starting or stopping; with Event: the queue cannot be reached.",
    },
    504: {"model": Error, "description": "The pod gave no answer by the function's timeout."},
}
_INVOKE_HEADERS: dict[str, dict[str, Any]] = {
    "X-Amz-Function-Error": {
        "description": "`Unhandled`: the function failed, and the body is Lambda's error JSON.",
        "schema": {"type": "string"},
    },
    "X-Amz-Executed-Version": {"description": "Always `$LATEST`.", "schema": {"type": "string"}},
    "X-Amz-Log-Result": {
        "description": "With X-Amz-Log-Type: Tail, the last 4 KiB of the invocation's log, in base64.",
        "schema": {"type": "string"},
    },
    "x-amzn-RequestId": {"description": "The invocation's id, also in its log.", "schema": {"type": "string"}},
}

_EVENT_HEADERS: dict[str, dict[str, Any]] = {
    "x-amzn-RequestId": _INVOKE_HEADERS["x-amzn-RequestId"],
    "Kappa-Duplicate": {
        "description": "`true`: an event of this idempotency key was there already, and none was added.",
        "schema": {"type": "string"},
    },
}

_QUEUED = {
    "requestId": "0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55",
    "status": "queued",
    "statusUrl": "/v1/namespaces/default/functions/hello/async/0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55",
}


class _Delegated(Response):
    """An answer that the data path writes."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


def add_data_path_routes(api: FastAPI, lambda_api: App, function_urls: App) -> None:
    """Add the routes. They document the data path, which handles these requests before `api` does; the result would be
    the same."""

    @api.post(
        "/2015-03-31/functions/{function_name}/invocations",
        tags=["invoke"],
        summary="Invoke a function",
        operation_id="Invoke",
        response_class=Response,
        responses={
            200: {
                "description": "What the function returned, as JSON; or, with X-Amz-Function-Error, its error.",
                "headers": _INVOKE_HEADERS,
                "content": {"application/json": {"example": {"hello": "world"}}},
            },
            202: {
                "description": "Event: the invocation is in the queue, durably; x-amzn-RequestId is its id.",
                "headers": _EVENT_HEADERS,
            },
            204: {"description": "DryRun: the function exists and the request is well-formed; nothing was run."},
            **_ERRORS,
        },
    )
    async def invoke(
        function_name: Annotated[
            str,
            Path(
                description="`NAME` (in the default namespace), `NAMESPACE.NAME`, or an ARN, full or partial; "
                "`:$LATEST` may follow.",
                examples=["hello", "team-a.hello"],
            ),
        ],
        request: Request,
        qualifier: Annotated[
            str | None, Query(alias="Qualifier", description="A version or alias: only `$LATEST` exists.")
        ] = None,
        invocation_type: Annotated[
            Literal["RequestResponse", "DryRun", "Event"],
            Header(
                alias="X-Amz-Invocation-Type",
                description="RequestResponse waits for the answer; Event queues the invocation, see `async`; "
                "DryRun only checks.",
            ),
        ] = "RequestResponse",
        idempotency_key: Annotated[
            str | None,
            Header(
                alias="Kappa-Idempotency-Key",
                description="With Event: the same key within the deduplication window (2 minutes) is the same event. "
                "Without it, an AWS SDK's `amz-sdk-invocation-id` is the key.",
                max_length=256,
            ),
        ] = None,
        log_type: Annotated[
            Literal["None", "Tail"],
            Header(alias="X-Amz-Log-Type", description="Tail: the end of the log comes in X-Amz-Log-Result."),
        ] = "None",
        client_context: Annotated[
            str | None,
            Header(alias="X-Amz-Client-Context", description="A JSON object in base64, at most 3,583 bytes."),
        ] = None,
        event: Annotated[
            Any, Body(description="The event: any JSON. An empty body is the event `{}`.", examples=[{"name": "Ada"}])
        ] = None,
    ) -> Response:
        """Run a function and return its answer, as AWS Lambda's Invoke does.

        Every AWS SDK can call it: set its endpoint URL to this server. Where no pod is free the request waits for one,
        cold starts included, up to the gateway's limit (60 s by default).
        """
        return _Delegated(lambda_api)

    description = (
        "A Lambda function gets the request as an event in Lambda's payload format 2.0 and answers with `statusCode`, "
        "`headers`, `cookies`, `body` and `isBase64Encoded`. Anything else that it returns is sent as a JSON body with "
        "status 200. A web server (`code.image.protocol: http`) gets the request itself, streaming and WebSockets "
        "included."
    )
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
        api.add_api_route(
            "/fn/{namespace}/{name}/{path:path}",
            _url_endpoint(function_urls),
            methods=[method],
            tags=["url"],
            summary=f"{method} a function's URL",
            description=description,
            operation_id=f"FunctionUrl{method.title()}",
            response_class=Response,
            responses={
                200: {"description": "What the function answers, with any status of its own."},
                202: {
                    "description": "Kappa-Invocation-Type: Event: the invocation is in the queue.",
                    "headers": _EVENT_HEADERS,
                    "content": {"application/json": {"example": _QUEUED}},
                },
                **_ERRORS,
            },
        )


def _url_endpoint(app: App) -> Any:
    async def function_url(
        namespace: Annotated[str, Path(description="The Function's namespace.", examples=["default"])],
        name: Annotated[str, Path(description="The Function's name.", examples=["hello"])],
        path: Annotated[str, Path(description="The path that the function sees.", examples=["some/page"])],
    ) -> Response:
        return _Delegated(app)

    return function_url
