"""`/v1/namespaces/{namespace}/functions/{name}/async`: what became of asynchronous invocations, redrive and purge.

FastAPI routes, off the hot path. What they answer is in `events.administration`; their errors are Lambda's in form.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import ValidationError

from kappa_core.durations import format_duration
from kappa_core.errors import FunctionNotFound, InvalidRequest
from kappa_core.event import Status
from kappa_core.function.base import DNS_LABEL
from kappa_gateway.edge.asgi import CLIENT
from kappa_gateway.edge.async_intake import NO_QUEUE
from kappa_gateway.edge.async_models import (
    Invocation,
    Invocations,
    PurgeResult,
    RedrivenEvent,
    RedriveRequest,
    RedriveResult,
)
from kappa_gateway.edge.bodies import Body as BoundedBody
from kappa_gateway.edge.bodies import BodyMemory
from kappa_gateway.edge.openapi import Error, ThrottledError
from kappa_gateway.events.administration import Administration
from kappa_gateway.events.service import Events
from kappa_gateway.pods.functions import Functions
from kappa_gateway.settings import Settings

BASE: Final = "/v1/namespaces/{namespace}/functions/{name}/async"
MOST_LISTED: Final = 1000
MOST_BODY_BYTES: Final = 128 * 1024
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATUSES: Final = ", ".join(status.value for status in Status)


_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Error, "description": "A parameter that cannot be, or this gateway has no queue."},
    404: {"model": Error, "description": "Nothing is known of that."},
    429: {"model": ThrottledError, "description": "The queue is full."},
    503: {"model": Error, "description": "The queue cannot be reached."},
}
_Namespace = Annotated[str, Path(description="The Function's namespace.", examples=["default"])]
_Name = Annotated[str, Path(description="The Function's name.", examples=["hello"])]
_EXAMPLE: Final = {
    "requestId": "0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55",
    "status": "retrying",
    "attempts": 1,
    "nextAttempt": "2026-11-23T14:05:09.250Z",
    "receivedAt": "2026-11-23T14:04:01.120Z",
    "updatedAt": "2026-11-23T14:04:09.250Z",
    "error": {"errorType": "KeyError", "errorMessage": "'name'"},
    "deadLetter": False,
}


_REDRIVE_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": RedriveRequest.model_json_schema(),
            "examples": {
                "all": {"value": {"all": True}},
                "some": {"value": {"requestIds": [_EXAMPLE["requestId"]]}},
            },
        }
    },
}


class AsyncApi:
    """`events` None: this gateway has no queue."""

    def __init__(self, events: Events | None, functions: Functions, bodies: BodyMemory, settings: Settings) -> None:
        self._events = events
        self._functions = functions
        self._bodies = bodies
        self._settings = settings
        self._listing = asyncio.Lock()
        """One listing at a time: each may read `status.MEMORY` bytes."""

    def add_routes(self, api: FastAPI) -> None:
        listing = self._listing

        def administration_of(namespace: str, name: str) -> Administration:
            for what, value in (("namespace", namespace), ("function", name)):
                if not re.fullmatch(DNS_LABEL, value) or len(value) > 63:
                    raise InvalidRequest(
                        f"{value[:100]!r} is not a valid {what} name: use lower-case letters, digits and dashes"
                    )
            if self._events is None:
                raise InvalidRequest(NO_QUEUE)
            return self._events.administration

        @api.get(
            BASE + "/{request_id}",
            tags=["async"],
            summary="What became of an asynchronous invocation",
            operation_id="GetAsyncInvocation",
            response_class=Response,
            responses={
                200: {
                    "model": Invocation,
                    "description": "What is known of it.",
                    "content": {
                        "application/json": {"example": {**_EXAMPLE, "resultTruncated": False, "result": None}}
                    },
                },
                **_ERRORS,
            },
        )
        async def get(
            namespace: _Namespace,
            name: _Name,
            request_id: Annotated[str, Path(description="The `x-amzn-requestid` of the 202.")],
        ) -> Response:
            """Outcomes are kept for `resultRetention` (an hour), dead letters for `deadLetterRetention` (a week).

            `running` is recorded only for runs that take longer than a second. A shorter run goes from `queued`
            straight to its final status.
            """
            administration = administration_of(namespace, name)
            entry = await administration.find(namespace, name, request_id) if _ID.fullmatch(request_id) else None
            if entry is None:
                raise FunctionNotFound(
                    f"no asynchronous invocation {request_id[:64]!r} of {namespace}/{name} is known: there was "
                    f"none, it was purged, or it ended more than {format_duration(self._settings.result_retention)} ago"
                )
            return Response(entry.encode(with_result=True), media_type="application/json")

        @api.get(
            BASE,
            tags=["async"],
            summary="Asynchronous invocations of a function",
            operation_id="ListAsyncInvocations",
            response_class=Response,
            responses={
                200: {
                    "model": Invocations,
                    "description": "Newest first, without their results.",
                    "content": {"application/json": {"example": {"invocations": [_EXAMPLE]}}},
                },
                **_ERRORS,
            },
        )
        async def list_(
            namespace: _Namespace,
            name: _Name,
            status_: Annotated[str | None, Query(alias="status", description=f"Only these: {_STATUSES}.")] = None,
            limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="How many at most.")] = 100,
        ) -> Response:
            """Those that wait, run or are retried, those that ended within `resultRetention`, and the dead letter."""
            wanted = None
            if status_ is not None:
                if status_ not in list(Status):
                    raise InvalidRequest(f"status {status_[:64]!r} is not one of {_STATUSES}")
                wanted = Status(status_)
            administration = administration_of(namespace, name)
            async with listing:
                entries = await administration.newest(namespace, name, status_=wanted, limit=limit)
            if not entries and self._functions.get(namespace, name) is None:
                raise _unknown(namespace, name)
            parts = [entry.encode(with_result=False) for entry in entries]
            return Response(b'{"invocations": [' + b", ".join(parts) + b"]}", media_type="application/json")

        @api.post(
            BASE + "/redrive",
            tags=["async"],
            summary="Run events of the dead letter again",
            operation_id="RedriveAsyncInvocations",
            responses={**_ERRORS, 413: {"model": Error, "description": "The body is too large."}},
            openapi_extra={"requestBody": _REDRIVE_BODY},
        )
        async def redrive(namespace: _Namespace, name: _Name, request: Request) -> RedriveResult:
            """Each dead event leaves the dead letter and becomes a new event, with a new id and with all attempts and
            the full `maxAge` again."""
            administration = administration_of(namespace, name)
            if self._functions.get(namespace, name) is None:
                raise _unknown(namespace, name)
            wanted = await self._read_redrive(request)
            until = time.time() if wanted.until is None else wanted.until
            async with listing:
                if wanted.request_ids is None:
                    result = await administration.redrive_all(namespace, name, until=until)
                else:
                    known = [request_id for request_id in wanted.request_ids if _ID.fullmatch(request_id)]
                    result = await administration.redrive(namespace, name, known)
                    result.not_found += [given for given in wanted.request_ids if not _ID.fullmatch(given)]
            return RedriveResult(
                redriven=[RedrivenEvent(request_id=old, redriven_as=new) for old, new in result.done],
                not_found=result.not_found,
                more=result.more,
                until=until,
            )

        @api.delete(
            BASE,
            tags=["async"],
            summary="Drop what waits, or the dead letter",
            operation_id="PurgeAsyncInvocations",
            responses=_ERRORS,
        )
        async def purge(
            namespace: _Namespace,
            name: _Name,
            dead: Annotated[
                Literal["true", "false"], Query(description="true: empty the dead letter, and leave the queue alone.")
            ] = "false",
        ) -> PurgeResult:
            """This cannot be undone. Invocations that run now go on, but are not retried."""
            administration = administration_of(namespace, name)
            if dead == "true":
                async with listing:
                    count, more = await administration.purge_dead(namespace, name, until=time.time())
                return PurgeResult(purged=count, more=more)
            return PurgeResult(purged=await administration.purge(namespace, name), more=False)

    async def _read_redrive(self, request: Request) -> RedriveRequest:
        """FastAPI itself would read a body of any size. Raises `InvalidRequest`, `RequestTooLarge`, `BodyTimeout`."""
        body = BoundedBody(
            request.receive,  # type: ignore[arg-type]  # ASGI's messages are plain dicts here
            request.scope["headers"],
            self._bodies,
            limit=MOST_BODY_BYTES,
            timeout=self._settings.body_timeout,
        )
        try:
            data = await body.read(is_here=request.scope[CLIENT].body_is_here)
            return RedriveRequest.model_validate_json(data or b"{}")
        except ValidationError as error:
            raise InvalidRequest(f"what to redrive cannot be read: {describe(error.errors())}") from None
        finally:
            body.close()


def describe(problems: Sequence[Any]) -> str:
    """The problems of a pydantic or FastAPI validation error, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) + ': ' if problem['loc'] else ''}"
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in problems[:5]
    )


def _unknown(namespace: str, name: str) -> FunctionNotFound:
    return FunctionNotFound(f"Function not found: there is no Function {name!r} in namespace {namespace!r}")
