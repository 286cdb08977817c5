"""Answers that agents keep: asked for before an event is attempted again, so that no function runs twice without need.

An agent keeps the answer to an event until the gateway that has it has settled the event (`kappa_core.wire.ATTEMPT`). A
`HeldAnswer` is the connection over which it came. It ends in one of two ways: `settled` (the agent may forget the
answer), or `abandon` (the connection breaks, and the agent goes on keeping it for whoever asks).
"""

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field
from typing import Final

from kappa_core import wire
from kappa_core.errors import GatewayTimeout, KappaError, PodLost
from kappa_gateway.pods.state import FunctionState, PodState, PodStatus
from kappa_gateway.transport.connection import Connection
from kappa_gateway.transport.endpoint import Endpoint

logger = logging.getLogger(__name__)

MOST_QUESTIONS: Final = 256
"""Questions to pods that are open at a time."""
PROMPT: Final = 10.0
"""Seconds in which a pod must answer, or report that it runs the invocation (an interim answer). One that does neither
is treated as one that cannot be reached."""
PATIENCE: Final = 0.5
"""Seconds after which a question without an answer no longer counts towards `MOST_QUESTIONS`."""
_ATTEMPTS: Final = 2
"""Connections over which a pod is asked."""

_FUNCTION_ERROR: Final = wire.FUNCTION_ERROR.lower().encode()
_REQUEST_ID: Final = wire.REQUEST_ID.lower().encode()


class HeldAnswer:
    """A connection whose answer its agent keeps until the event is settled, an outage of the queue included.

    Once the event is settled, the next request on it asks the agent to forget the answer. If it is closed in good order
    before that, a last request does so.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection, request_id: str, attempt: int) -> None:
        self._connection: Connection | None = connection
        connection.deadline = math.inf  # the sweep would break it
        connection.closing_request = (
            f"DELETE {wire.KEPT_PATH}{request_id}/{attempt} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".encode()
        )

    def settled(self) -> None:
        """What follows from the answer is durable: the agent may forget it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish()

    def abandon(self) -> None:
        """It could not be settled: the agent keeps it for whoever asks next. Harmless after `settled`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort(PodLost("the connection was broken so that the agent keeps an event's answer"))
            connection.finish()


@dataclass(frozen=True, eq=False, slots=True)
class KeptAnswer:
    """What the function answered to an attempt. Call `held.settled` or `held.abandon`, always."""

    status: int
    function_error: bytes | None
    """The value of `wire.FUNCTION_ERROR`; None: the function succeeded."""
    body: bytes
    headers: list[tuple[bytes, bytes]]
    """All of the answer's, names in lower case: log tail, duration, executed version."""
    held: HeldAnswer = field(repr=False)


class KeptAnswers:
    """Asks the pods of a function. Times are seconds."""

    def __init__(self, *, connect_timeout: float, answer_margin: float) -> None:
        self.connect_timeout = connect_timeout
        self.answer_margin = answer_margin
        self.questions = asyncio.Semaphore(MOST_QUESTIONS)

    async def find(self, function: FunctionState, request_id: str, attempt: int) -> KeptAnswer | None:
        """The answer to this attempt, if a pod of the function keeps it or still runs it; None: it may be run (again).

        Waits for a pod that runs it. Needs no slot, and asks pods that drain too. A pod that cannot be reached, or
        answers nothing for `PROMPT` seconds, counts as one that knows nothing: after a pod's crash a function may run
        twice. To be asked whenever it is not known what became of an attempt: after another gateway's crash, and after
        `PodLost` or `GatewayTimeout` too. Functions must be synced, or there are pods that are not asked.

        Raises `GatewayTimeout` if a pod runs the attempt and did not end it within the function's timeout and the
        margin: it must not be run again now.
        """
        search = _Search(self, function, request_id, attempt)
        try:
            return await search.run()
        finally:
            await search.close()


class _Search:
    def __init__(self, asking: KeptAnswers, function: FunctionState, request_id: str, attempt: int) -> None:
        self._asking = asking
        self._function = function
        self._request_id = request_id
        self._attempt = attempt
        self._tasks: set[asyncio.Task[KeptAnswer | None]] = set()
        self._chosen: KeptAnswer | None = None
        self._deadline = time.monotonic() + function.timeout + asking.answer_margin

    async def run(self) -> KeptAnswer | None:
        loop, questions = asyncio.get_running_loop(), self._asking.questions
        for pod in list(self._function.pods.values()):
            if pod.endpoint is None or not _may_know(pod):
                continue
            await questions.acquire()
            task = loop.create_task(self._ask(pod, pod.endpoint), name=f"kept {self._request_id} {pod.name}")
            self._tasks.add(task)
            task.add_done_callback(_Permit(loop, questions).release)
            if self._choose():
                return self._chosen
        pending = {task for task in self._tasks if not task.done()}
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if self._choose():
                return self._chosen
        for task in self._tasks:
            task.result()  # raises, where a pod runs it for too long
        return None

    def _choose(self) -> bool:
        for task in self._tasks:
            if task.done() and task.exception() is None and (answer := task.result()) is not None:
                self._chosen = answer
                return True
        return False

    async def close(self) -> None:
        """End the questions that are open, and abandon what else they found."""
        for task in self._tasks:
            task.cancel()
        for found in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(found, KeptAnswer) and found is not self._chosen:
                found.held.abandon()

    async def _ask(self, pod: PodState, endpoint: Endpoint) -> KeptAnswer | None:
        """One pod. Raises `GatewayTimeout` if it runs the attempt and does not end it."""
        for number in range(_ATTEMPTS):
            # the last one over a new connection: those that idle may all have been closed, unnoticed
            connection = endpoint.take() if number + 1 < _ATTEMPTS else None
            if connection is None:
                try:
                    connection = await endpoint.connect(self._asking.connect_timeout)
                except OSError as error:
                    self._log_unreached(pod, str(error) or repr(error))
                    return None
            try:
                return await self._ask_over(connection, pod)
            except PodLost as error:
                # closed while it idled, or broken while it waited: the pod itself may well be there
                self._log_unreached(pod, error.message)
            except GatewayTimeout:
                if connection.received:
                    raise
                return None
            except TimeoutError:
                self._log_unreached(pod, f"nothing came for {PROMPT:g} s")
                return None
            except KappaError as error:
                self._log_unreached(pod, error.message)
                return None
        return None

    async def _ask_over(self, connection: Connection, pod: PodState) -> KeptAnswer | None:
        connection.begin(self._deadline, subject=self._function.key, timeout=self._function.timeout)
        answer = None
        try:
            connection.write(
                f"GET {wire.KEPT_PATH}{self._request_id}/{self._attempt} HTTP/1.1\r\nHost: {pod.name}\r\n\r\n".encode()
            )
            try:
                async with asyncio.timeout(PROMPT):
                    await connection.head()
            except TimeoutError:
                if not connection.received:
                    raise
                await connection.head()
            chunks = []
            while (chunk := await connection.chunk()) is not None:
                chunks.append(chunk)
            fields = dict(connection.headers)
            if connection.status != 404 and fields.get(_REQUEST_ID) == self._request_id.encode():
                held = HeldAnswer(connection, self._request_id, self._attempt)
                error = fields.get(_FUNCTION_ERROR)
                answer = KeptAnswer(connection.status, error, b"".join(chunks), connection.headers, held)
            return answer
        finally:
            if answer is None:
                connection.finish()

    def _log_unreached(self, pod: PodState, error: str) -> None:
        logger.info(
            "a pod could not be asked for an event's answer",
            extra={"function": self._function.key, "request_id": self._request_id, "pod": pod.name, "error": error},
        )


def _may_know(pod: PodState) -> bool:
    """Whether it has an agent that could keep an answer."""
    return pod.observed.protocol == "lambda" and pod.status is not PodStatus.GONE


class _Permit:
    """To ask a question: released with the answer, or after `PATIENCE`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, questions: asyncio.Semaphore) -> None:
        self._questions = questions
        self._timer: asyncio.TimerHandle | None = loop.call_later(PATIENCE, self.release)

    def release(self, _: object = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._questions.release()
