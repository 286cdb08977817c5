"""Answers of events whose gateway died: ask the function's pods before the function is run again.

An agent keeps an event's answer until the gateway that got it has seen to it (`kappa_core.wire.ATTEMPT`). Whoever holds
such a connection says so with `hold`; then it either gives the connection back (`Connection.finish`: the event is seen
to, the agent may forget the answer) or breaks it (`Connection.abort`: it is not, the agent goes on keeping it).
"""

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kappa_core import wire
from kappa_core.errors import GatewayTimeout, KappaError, PodLost
from kappa_gateway.connection import Connection
from kappa_gateway.state import FunctionState, PodState, PodStatus

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

PROMPT: Final = 10.0
"""Seconds in which a pod says at least that it runs the invocation (an interim answer); one that says nothing is
taken for one that cannot be reached."""
PATIENCE: Final = 0.5
"""Seconds after which a question that has no answer yet no longer counts among those that are asked at a time."""
_TRIES: Final = 2

_FUNCTION_ERROR: Final = wire.FUNCTION_ERROR.lower().encode()
_REQUEST_ID: Final = wire.REQUEST_ID.lower().encode()


@dataclass(eq=False, slots=True)
class KeptAnswer:
    """What the function answered to an attempt, as the gateway that is gone got it. Call `seen_to` or `abandon`, always."""

    status: int
    function_error: bytes | None
    """The value of `wire.FUNCTION_ERROR`; None: the function succeeded."""
    body: bytes
    headers: list[tuple[bytes, bytes]]
    """All of the answer's, names in lower case: log tail, duration, executed version."""
    pod: PodState
    connection: Connection = field(repr=False)

    def seen_to(self) -> None:
        """What follows from the answer is durable: the agent may forget it."""
        if self.pod.status is PodStatus.DRAINING:
            self.connection.keep_alive = False  # it stops once it has heard of it
        self.connection.finish()

    def abandon(self) -> None:
        """It could not be seen to: the agent keeps it for whoever asks next. Harmless after `seen_to`."""
        if self.connection.active:
            _break(self.connection)


def hold(connection: Connection, request_id: str, attempt: int) -> None:
    """This connection's answer is an event's, and stays at the agent for as long as it takes to see to it, an outage of the
    queue included. Given back to its pool, the connection tells the agent to forget the answer with the next request;
    closed in good order, with a last one."""
    connection.deadline = math.inf  # the sweep would break it
    connection.farewell = (
        f"DELETE {wire.KEPT_PATH}{request_id}/{attempt} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".encode()
    )


async def find(gateway: "Gateway", function: FunctionState, request_id: str, attempt: int) -> KeptAnswer | None:
    """The answer to this attempt, if a pod of the function keeps it or still runs it; None: it may be run (again).

    Waits for one that runs. Takes no slot, and asks pods that drain too. A pod that cannot be reached, or says nothing
    for `PROMPT` seconds, counts as one that knows nothing: after a pod's death a function may run twice. Of use
    whenever it is open what became of an attempt: after another gateway's death, and after `PodLost` or
    `GatewayTimeout` too. The registry must be synced, or there are pods that nobody asks.

    Raises `GatewayTimeout` if a pod runs the attempt and did not end it within the function's timeout and the margin:
    it must not be run again now.
    """
    search = _Search(gateway, function, request_id, attempt)
    try:
        return await search.run()
    finally:
        await search.close()


class _Search:
    def __init__(self, gateway: "Gateway", function: FunctionState, request_id: str, attempt: int) -> None:
        self._gateway = gateway
        self._function = function
        self._request_id = request_id
        self._attempt = attempt
        self._tasks: set[asyncio.Task[KeptAnswer | None]] = set()
        self._chosen: KeptAnswer | None = None
        self._deadline = time.monotonic() + function.timeout + gateway.settings.answer_margin

    async def run(self) -> KeptAnswer | None:
        questions = self._gateway.upstream.questions
        pods = [pod for pod in self._function.pods.values() if _may_know(pod)]
        for pod in pods:
            await questions.acquire()
            task = self._gateway.loop.create_task(self._ask(pod), name=f"kept {self._request_id} {pod.pod.name}")
            self._tasks.add(task)
            task.add_done_callback(_Permit(self._gateway.loop, questions).give_back)
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
        """End the questions that are open, and give back what else they found."""
        for task in self._tasks:
            task.cancel()
        for found in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(found, KeptAnswer) and found is not self._chosen:
                found.abandon()

    async def _ask(self, pod: PodState) -> KeptAnswer | None:
        """One pod. Raises `GatewayTimeout` if it runs the attempt and does not end it."""
        pool = self._gateway.upstream.pool(pod)
        for number in range(_TRIES):
            # the last one over a new connection: those that idle may all have been closed, unnoticed
            connection = pool.take() if number + 1 < _TRIES else None
            if connection is None:
                try:
                    connection = await pool.connect(self._gateway.settings.connect_timeout)
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
        connection.begin(self._deadline)
        answer = None
        try:
            connection.write(
                f"GET {wire.KEPT_PATH}{self._request_id}/{self._attempt} HTTP/1.1\r\nHost: {pod.pod.name}\r\n\r\n".encode()
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
                error = fields.get(_FUNCTION_ERROR)
                answer = KeptAnswer(connection.status, error, b"".join(chunks), connection.headers, pod, connection)
                hold(connection, self._request_id, self._attempt)
            return answer
        finally:
            if answer is None:
                connection.finish()

    def _log_unreached(self, pod: PodState, error: str) -> None:
        logger.info(
            "a pod could not be asked for an event's answer",
            extra={
                "function": self._function.key,
                "request_id": self._request_id,
                "pod": pod.pod.name,
                "error": error,
            },
        )


def _may_know(pod: PodState) -> bool:
    """Whether it has an agent that could keep an answer."""
    return pod.pod.protocol == "lambda" and pod.pod.host is not None and pod.status is not PodStatus.GONE


class _Permit:
    """To ask a question: given back with the answer, or after `PATIENCE`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, questions: asyncio.Semaphore) -> None:
        self._questions = questions
        self._timer: asyncio.TimerHandle | None = loop.call_later(PATIENCE, self.give_back)

    def give_back(self, _: object = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._questions.release()


def _break(connection: Connection) -> None:
    connection.abort(
        PodLost(f"{connection.pool.pod.function.key}: its connection was broken to keep an event's answer")
    )
    connection.finish()
