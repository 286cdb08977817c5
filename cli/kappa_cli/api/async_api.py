"""Asynchronous invocations over the gateway's status API: list, look up, wait, redrive and purge."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from kappa_cli.api.client import BAD_INPUT, NOT_FOUND, NOT_REACHED, REFUSED, CallError, call
from kappa_core import function_name
from kappa_core.durations import format_duration
from kappa_core.errors import FunctionNotFound, InvalidRequest
from kappa_core.event import Status

UNREACHABLE_TIMEOUT: Final = 60.0
"""Seconds for which `wait` goes on without an answer, so that a gateway may be replaced meanwhile."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
"""Seconds between two looks of `wait`."""


class AsyncApi:
    """The asynchronous invocations of one function. Every method raises `CallError`."""

    def __init__(self, gateway: str, name: str, namespace: str | None) -> None:
        """`name` is NAME, NAMESPACE.NAME or an ARN; with `namespace` it is a bare name."""
        try:
            found = function_name.parse(name if namespace is None else f"{namespace}.{name}")
        except FunctionNotFound as error:
            raise CallError(error.message, NOT_FOUND) from None
        except InvalidRequest as error:
            raise CallError(error.message, BAD_INPUT) from None
        self.function = f"{found.namespace}/{found.name}"
        """How messages name the function."""
        self._gateway = gateway
        self._path = f"/v1/namespaces/{found.namespace}/functions/{found.name}/async"

    def list(self, *, limit: int, status: Status | None) -> Any:  # Any: JSON
        query = {"limit": str(limit)} | ({"status": status.value} if status is not None else {})
        return self._call("GET", f"?{urlencode(query)}")

    def get(self, request_id: str) -> Any:  # Any: JSON
        return self._call("GET", f"/{request_id}")

    def redrive(self, request_ids: Sequence[str] | None) -> Iterator[Any]:  # Any: JSON
        """Redrive these, or with None everything in the dead letter; yields the gateway's answers, one for each
        batch."""
        body: dict[str, Any] = {"all": True} if request_ids is None else {"requestIds": list(request_ids)}
        more = True
        while more:
            answer = self._call("POST", "/redrive", body)
            yield answer
            more = answer["more"]
            body["until"] = answer["until"]

    def purge(self, *, dead: bool) -> int:
        """Drop what waits, or with `dead` the dead letter; how many events that were."""
        count, more = 0, True
        while more:
            answer = self._call("DELETE", f"?dead={'true' if dead else 'false'}")
            count += answer["purged"]
            more = answer["more"]
        return count

    def wait(
        self,
        request_id: str,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Any:  # Any: JSON
        """The invocation once it has ended, within `timeout` seconds. Looks less and less often."""
        answered = clock()
        deadline = answered + timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                found = self.get(request_id)
                answered = clock()
                if Status(found["status"]).final:
                    return found
                last, code = f"it is {found['status']}", REFUSED
            except CallError as error:
                if not _is_passing(error) or clock() - answered > UNREACHABLE_TIMEOUT:
                    raise
                last, code = str(error), error.exit_code
            if clock() + pause > deadline:
                raise CallError(f"it has not ended within {format_duration(timeout)}: {last}", code)
            sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _call(self, method: str, rest: str, body: Any = None) -> Any:  # Any: JSON
        payload = None if body is None else json.dumps(body).encode()
        reply = call(self._gateway, method, self._path + rest, payload)
        try:
            return reply.json()
        except ValueError:
            raise CallError(f"{self._gateway} did not answer with JSON: is it a gateway?", REFUSED) from None


def _is_passing(error: CallError) -> bool:
    """Whether the gateway may answer a moment later: it is being replaced."""
    return error.exit_code == NOT_REACHED or (error.exit_code == REFUSED and " answered 503" in str(error))
