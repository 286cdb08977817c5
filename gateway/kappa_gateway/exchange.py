"""One request's way: a slot, a connection to its pod, the answer, and what is counted about it.

Kept free of ASGI: the Lambda API, function URLs and the proxy use it alike.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from kappa_core import wire
from kappa_core.errors import (
    BadAnswer,
    FunctionFailed,
    GatewayTimeout,
    InvalidRequest,
    KappaError,
    PodLost,
    Throttled,
)
from kappa_core.metrics import ColdStartReason, InvocationType, Outcome, Phase
from kappa_gateway import cold_starts
from kappa_gateway.connection import Connection
from kappa_gateway.pools.claim import CONNECT_TIMEOUT, Stage
from kappa_gateway.pools.first_request import specialize
from kappa_gateway.state import FunctionState, PodState, PodStatus, Ticket
from kappa_gateway.upstream import FRESH

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

_REFUSED: Final = wire.REFUSED.lower().encode()
_FOR_GOOD: Final = (wire.REFUSED_DRAINING, wire.REFUSED_POOL)
"""A pod that says so is of no more use."""
_DURATION: Final = wire.DURATION_MS.lower().encode()
_FUNCTION_ERROR: Final = wire.FUNCTION_ERROR.lower().encode()


class ClientGone(KappaError):
    """The caller went away: nobody is left to be answered."""

    def __init__(self) -> None:
        super().__init__("the caller closed the connection")


class Exchange(Ticket):
    """`await request(...)`, read the connection's answer, then `end(outcome)`, always. `abort` may come at any time."""

    __slots__ = (
        "_future",
        "answered",
        "arrived",
        "asked",
        "came_whole",
        "client_gone",
        "cold_start",
        "connection",
        "function_error",
        "gateway",
        "granted",
        "kind",
        "ran",
        "request_id",
        "sent",
    )

    def __init__(self, gateway: "Gateway", function: FunctionState, kind: InvocationType, request_id: str) -> None:
        super().__init__(function)
        self.gateway = gateway
        self.kind = kind
        self.request_id = request_id
        self.connection: Connection | None = None
        self.client_gone = False
        self.function_error = False
        """Whether the answer says that the function failed."""
        self.came_whole = False
        """Whether the answer's head and body came in one piece, so that passing it on is the gateway's time alone."""
        self.cold_start: bytes | None = None
        """The value of the answer's header `wire.COLD_START`, if it waited for a pod to start."""
        self.arrived = self.asked = time.monotonic()
        self.granted = self.sent = self.answered = 0.0
        self.ran: float | None = None
        """Seconds, as the agent says; in a burst the gateway itself may be late to see the answer."""
        self._future: asyncio.Future[None] | None = None

    async def request(
        self,
        head: Callable[[FunctionState], bytes],
        body: bytes,
        *,
        idempotent: bool = False,
        is_head: bool = False,
        more: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> Connection:
        """Send a request to a pod of the function; returns the connection once the answer's head is there.

        `head` gives the request's head; `more` sends the rest of a body that is not all here yet (such a request goes
        to one pod only). Raises `Throttled`, `FunctionFailed`, `FunctionNotFound`, `PodLost`, `BadAnswer`,
        `GatewayTimeout` or `ClientGone`.
        """
        gateway = self.gateway
        self.asked = time.monotonic()
        has_slot = gateway.dispatcher.acquire(self)
        while True:
            pod = await self.slot(has_slot)
            connection = await self._connect(idempotent)
            if connection is None:
                has_slot = self.unreachable()
                continue
            if pod.claim is not None and pod.claim.stage is Stage.CLAIMED:
                if await specialize(self, pod, connection, head(self.function), body):
                    return connection
                has_slot = gateway.dispatcher.refused(self, draining=True)
                continue
            function = self.function
            self.sent = time.monotonic()
            connection.begin(self.sent + function.timeout + gateway.settings.answer_margin, is_head=is_head)
            connection.write(head(function) + body)
            try:
                if more is not None:
                    await more(connection)
                await connection.head()
            except PodLost:
                if idempotent and connection.used and not connection.received and more is None:
                    # it was closed while it idled; what is idempotent may run twice (RFC 9110 §9.2.2)
                    connection.finish()
                    has_slot = True
                    continue
                raise
            if self.look_at_head(connection):
                return connection
            reason = await self.read_refusal(connection)
            if reason == wire.REFUSED_POOL:
                gateway.pools.seen_in_pool(pod)
            elif reason == wire.REFUSED_DRAINING:
                gateway.upstream.drop(pod)
            has_slot = gateway.dispatcher.refused(self, draining=reason in _FOR_GOOD)

    def end(self, outcome: Outcome, *, keep_connection: bool = False) -> Connection | None:
        """Give everything back and count. Idempotent.

        With `keep_connection` the slot alone is given back: the connection that is returned carries no further request
        until the caller calls its `finish`.
        """
        if not self.arrived:
            return None
        if self.client_gone:
            outcome = Outcome.CANCELLED
        gateway = self.gateway
        now = time.monotonic()
        duration, self.arrived = now - self.arrived, 0.0
        counted = gateway.metrics_of(self.function)
        counted.count(self.kind, outcome)
        if outcome is Outcome.THROTTLED:
            counted.throttles += 1
        pod = self.pod
        connection, self.connection = self.connection, None
        kept = None
        if connection is not None:
            counted.duration.observe(duration)
            if keep_connection and connection.complete:
                kept = connection
                kept.deadline = math.inf
            else:
                connection.finish()
        duration_at_pod = self.ran if self.ran is not None else now - self.sent
        gateway.dispatcher.release(self, duration_at_pod if self.answered else None)
        if self.answered:
            waited, own = self.granted - self.since, duration - (now - self.sent)
            counted.overhead.observe(own - waited + (now - self.answered if self.came_whole else 0.0))
            if pod is not None and pod.status is PodStatus.INIT_FAILED and not self.function_error:
                gateway.dispatcher.set_status(pod, PodStatus.READY)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "invocation",
                extra={
                    "function": self.function.key,
                    "request_id": self.request_id,
                    "type": self.kind.value,
                    "outcome": outcome.value,
                    "duration_ms": round(duration * 1000, 3),
                },
            )
        return kept

    def forget(self) -> None:
        """It was no invocation yet, but an event that was taken for later: `end` counts nothing."""
        self.arrived = 0.0

    def abort(self) -> None:
        """The caller went away: the slot is free at once, and the pod sees the connection break."""
        self.client_gone = True
        future = self._future
        if self.connection is not None:
            self.connection.abort(ClientGone())
        self.gateway.dispatcher.release(self)
        if future is not None and not future.done():
            future.set_result(None)

    async def slot(self, has_slot: bool) -> PodState:
        """What follows `dispatcher.acquire` and its like, which told whether there is a slot: wait for it if not."""
        if not has_slot:
            await self._wait_for_slot()
        if self.client_gone or self.pod is None:
            raise ClientGone
        return self.pod

    def unreachable(self) -> bool:
        """The pod took no connection: have it dialled, and take another one. As `dispatcher.acquire`."""
        pod = self.pod
        if self.client_gone or pod is None:
            raise ClientGone
        if pod.claim is not None and pod.claim.stage is Stage.CLAIMED:
            self.gateway.pools.unreachable(pod)
            return self.gateway.dispatcher.refused(self, draining=True)
        self.gateway.dialer.dial(pod)
        return self.gateway.dispatcher.unreachable(self)

    # -- inside

    async def _wait_for_slot(self) -> None:
        self._future = self.gateway.loop.create_future()
        self.wake = self._woken
        try:
            await self._future
        finally:
            self._future = None
            self.wake = None
        if self.error is not None:
            raise self.error

    def _woken(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def _connect(self, idempotent: bool) -> Connection | None:
        """A connection to the slot's pod; None if it takes none."""
        pod = self.pod
        assert pod is not None
        self.granted = time.monotonic()
        pool = self.gateway.upstream.pool(pod)
        # Our own agent keeps idle connections open for longer than we do; a person's server may not.
        certain = idempotent or pod.pod.protocol == "lambda"
        connection = pool.take(None if certain else FRESH)
        if connection is None:
            try:
                claimed = pod.claim is not None and pod.claim.stage is Stage.CLAIMED
                connection = await pool.connect(CONNECT_TIMEOUT if claimed else self.gateway.settings.connect_timeout)
            except OSError as error:
                logger.info(
                    "pod takes no connection",
                    extra={"function": self.function.key, "pod": pod.pod.name, "error": str(error) or repr(error)},
                )
                return None
        self.connection = connection
        if self.client_gone:
            pool.put(connection)
            self.connection = None
            raise ClientGone
        return connection

    def look_at_head(self, connection: Connection) -> bool:
        """Whether the pod took the request; notes what its head says."""
        status = connection.status
        pod = self.pod
        assert pod is not None or self.client_gone
        for name, value in connection.headers:
            if name == _FUNCTION_ERROR:
                self.function_error = True
            elif name == _DURATION:
                self.ran = _seconds(value)
            elif name == _REFUSED and (status == 429 or status == 503) and connection.pool.pod.pod.protocol == "lambda":
                return False
        self.answered = time.monotonic()
        self.came_whole = connection.complete
        if pod is not None and not pod.served:
            pod.served = True
            self._cold_start(connection)
        return True

    def _cold_start(self, connection: Connection) -> None:
        """The pod's first answer: count the start, if this request waited for it."""
        pod, function = self.pod, self.function
        assert pod is not None
        agent = cold_starts.agent_phases(connection.headers)
        if pod.claim is not None:
            path, reason = cold_starts.POOL, ColdStartReason.CLAIMED
            phases = cold_starts.pool_phases(self.asked, self.granted, self.sent, self.answered, agent)
        else:
            to_epoch = time.time() - time.monotonic()
            asked = self.asked + to_epoch
            if pod.ready_at is None or asked >= pod.ready_at:
                return  # the pod was there already
            path, reason = cold_starts.DEPLOYMENT, self.cold_reason or ColdStartReason.STARTING
            phases = cold_starts.deployment_phases(asked, pod, self.answered + to_epoch, agent.get(Phase.RUN, 0.0))
            function.cold_start = _average(function.cold_start, pod.ready_at - asked)
        self.cold_start = cold_starts.header(path, phases)
        self.gateway.metrics_of(function).cold_start(path, reason, phases)
        logger.info(
            "cold start",
            extra={
                "function": function.key,
                "pod": pod.pod.name,
                "request_id": self.request_id,
                "path": path,
                "reason": reason.value,
                "phases_ms": {phase.value: round(seconds * 1000, 2) for phase, seconds in phases.items()},
            },
        )

    async def read_refusal(self, connection: Connection) -> str:
        """The reason that the pod gives. Its short answer is read so that the connection can be used again."""
        reason = next((value.decode("latin-1") for name, value in connection.headers if name == _REFUSED), "")
        received = 0
        while (chunk := await connection.chunk()) is not None:
            received += len(chunk)
            if received > 65536:
                connection.keep_alive = False
                break
        connection.finish()
        self.connection = None
        if self.client_gone:
            raise ClientGone
        return reason


def _seconds(milliseconds: bytes) -> float | None:
    """None for what is no time: a person's own server may send anything."""
    try:
        seconds = float(milliseconds) / 1000
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _average(mean: float, value: float) -> float:
    return value if not mean else mean + 0.3 * (value - mean)


def outcome_of(error: BaseException) -> Outcome:
    """How an invocation that ended with this error is counted."""
    match error:
        case ClientGone() | asyncio.CancelledError():
            return Outcome.CANCELLED
        case Throttled():
            return Outcome.THROTTLED
        case FunctionFailed():
            return Outcome.FAILED
        case GatewayTimeout():
            return Outcome.TIMEOUT
        case PodLost():
            return Outcome.LOST
        case BadAnswer():
            return Outcome.BAD_ANSWER
        case InvalidRequest():
            return Outcome.BAD_REQUEST
        case _:
            return Outcome.ERROR
