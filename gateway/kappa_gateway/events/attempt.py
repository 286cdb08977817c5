"""One attempt of an event: an invocation like any other, whose answer is read and judged.

The connection to the pod is held back until the event is settled, because the agent keeps the answer for so long (see
`kept_answers`). The slot is free as soon as the answer is here.
"""

from collections.abc import Callable
from typing import Final

from kappa_core.errors import FunctionNotFound, GatewayTimeout, KappaError, PodLost
from kappa_core.event import Trouble
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway.events.kept_answers import HeldAnswer, KeptAnswer
from kappa_gateway.events.results import (
    MAX_ERROR_BYTES,
    LeaseLost,
    NoFunction,
    NotBegun,
    Result,
    Withdrawn,
    lambda_result,
    web_result,
)
from kappa_gateway.invoke.invocation import Invocation, Place
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.outcome import outcome_of
from kappa_gateway.invoke.request import Request
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.transport.connection import Connection

TOO_LARGE: Final = "Function.ResponseSizeTooLarge"


class LeasedPlace(Place):
    """An event's place among the requests that wait. `may_attempt` says whether its lease holds (it may wait long).

    `on_place(True)` is called when it has a slot and may begin, `on_place(False)` when it begins to wait (again).
    """

    def __init__(self, may_attempt: Callable[[], bool], on_place: Callable[[bool], None]) -> None:
        self.lost_lease = False
        self._may_attempt = may_attempt
        self._on_place = on_place

    def waits(self) -> None:
        self._on_place(False)

    def may_begin(self) -> bool:
        if not self._may_attempt():
            self.lost_lease = True
            return False
        self._on_place(True)
        return True


class Attempts:
    """`make` one, or judge the answer to one that an agent kept. Limits are bytes."""

    def __init__(self, invoker: Invoker, *, max_response_bytes: int, result_max_bytes: int) -> None:
        self._invoker = invoker
        self._limit = max_response_bytes
        self._result_max_bytes = result_max_bytes

    def make(self, function: FunctionState, request_id: str, number: int, place: LeasedPlace) -> "Attempt":
        invocation = Invocation(self._invoker, function, InvocationType.EVENT, request_id, stays=True, place=place)
        return Attempt(invocation, number, place, limit=self._limit, keep=self._worth_keeping(function))

    def judge(self, function: FunctionState, answer: KeptAnswer) -> Result:
        keep = self._worth_keeping(function)
        return lambda_result(answer.status, answer.headers, answer.body[:keep], len(answer.body))

    def _worth_keeping(self, function: FunctionState) -> int:
        """How many bytes of an answer are of use to anybody."""
        wanted = function.manifest.spec.async_ if function.manifest is not None else None
        if wanted is None or not (wanted.on_success or wanted.on_failure or wanted.dead_letter):
            return max(self._result_max_bytes, MAX_ERROR_BYTES)
        return self._limit


class Attempt:
    """`await run(request)` once; then `held` is to be settled or abandoned. `withdraw` may come while it waits."""

    def __init__(self, invocation: Invocation, number: int, place: LeasedPlace, *, limit: int, keep: int) -> None:
        self.held: HeldAnswer | None = None
        self._invocation = invocation
        self._number = number
        """Which of the event's attempts this is, from 1."""
        self._place = place
        self._limit = limit
        self._keep = keep

    async def run(self, request: Request) -> Result | NotBegun:
        invocation, outcome = self._invocation, Outcome.ERROR
        try:
            connection = await invocation.send(request)
            if connection is None:
                invocation.forget()
                return LeaseLost() if self._place.lost_lease else Withdrawn()
            result = await self._read(connection)
            outcome = Outcome(result.reason) if result.trouble is not None else Outcome.SUCCESS
            return result
        except FunctionNotFound as error:
            outcome = outcome_of(error)
            return NoFunction()
        except KappaError as error:
            outcome = outcome_of(error)
            return self._failed(error, outcome)
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            connection = invocation.end(outcome, keep_connection=True)
            if connection is not None:
                self.held = HeldAnswer(connection, invocation.request_id, self._number)

    def withdraw(self) -> None:
        """Wait for a slot no longer, now and when it would have to again. What was sent is not touched."""
        self._invocation.withdraw()

    # -- inside

    async def _read(self, connection: Connection) -> Result:
        body, size = bytearray(), 0
        while (chunk := await connection.chunk()) is not None:
            size += len(chunk)
            if len(body) < self._keep:
                body += chunk[: self._keep - len(body)]
            if size > self._limit:
                # it is not read to its end, so nothing can follow on this connection
                connection.keep_alive = False
                message = f"the answer is larger than {self._limit} bytes, the limit"
                error = {"errorType": TOO_LARGE, "errorMessage": message}
                return Result(Trouble.FUNCTION_ERROR, Outcome.FUNCTION_ERROR, function_error="Unhandled", error=error)
        judge = web_result if self._invocation.protocol == "http" else lambda_result
        return judge(connection.status, connection.headers, bytes(body), size)

    def _failed(self, error: KappaError, outcome: Outcome) -> Result:
        function = self._invocation.function
        refused = function.manifest is not None and not function.max_replicas
        return Result(
            Trouble.REFUSED if refused else Trouble.UNAVAILABLE,
            outcome.value,
            error={"errorType": error.error_type, "errorMessage": error.message},
            uncertain=isinstance(error, PodLost | GatewayTimeout) and function.protocol == "lambda",
        )
