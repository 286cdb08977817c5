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
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway.connection import Connection
from kappa_gateway.metrics import cold_start_phases
from kappa_gateway.state import FunctionState, PodState, PodStatus, Ticket
from kappa_gateway.upstream import FRESH

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

_REFUSED: Final = wire.REFUSED.lower().encode()
_DRAINING: Final = wire.REFUSED_DRAINING.encode()
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
        "came_whole",
        "client_gone",
        "connection",
        "function_error",
        "gateway",
        "granted",
        "kind",
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
        self.arrived = time.monotonic()
        self.granted = self.sent = self.answered = 0.0
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
        has_slot = gateway.dispatcher.acquire(self)
        while True:
            await self.slot(has_slot)
            connection = await self._connect(idempotent)
            if connection is None:
                has_slot = self.unreachable()
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
            if self._look_at_head(connection):
                return connection
            draining = await self._read_refusal(connection)
            if draining:
                gateway.upstream.drop(connection.pool.pod)
            has_slot = gateway.dispatcher.refused(self, draining=draining)

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
        gateway.dispatcher.release(self, now - self.sent if self.answered else None)
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
                connection = await pool.connect(self.gateway.settings.connect_timeout)
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

    def _look_at_head(self, connection: Connection) -> bool:
        """Whether the pod took the request; notes what its head says."""
        status = connection.status
        pod = self.pod
        assert pod is not None or self.client_gone
        for name, _ in connection.headers:
            if name == _FUNCTION_ERROR:
                self.function_error = True
            elif name == _REFUSED and (status == 429 or status == 503) and connection.pool.pod.pod.protocol == "lambda":
                return False
        self.answered = time.monotonic()
        self.came_whole = connection.complete
        if pod is not None and not pod.served:
            pod.served = True
            self._cold_start()
        return True

    def _cold_start(self) -> None:
        pod = self.pod
        assert pod is not None
        to_epoch = time.time() - time.monotonic()
        asked = self.since + to_epoch
        if pod.ready_at is None or asked >= pod.ready_at:
            return  # the pod was there already
        phases = cold_start_phases(asked, pod, self.answered + to_epoch)
        self.gateway.metrics_of(self.function).cold_start(phases)
        waited = pod.ready_at - asked
        mean = self.function.cold_start
        self.function.cold_start = waited if not mean else mean + 0.3 * (waited - mean)
        logger.info(
            "cold start",
            extra={
                "function": self.function.key,
                "pod": pod.pod.name,
                "request_id": self.request_id,
                "phases_ms": {phase.value: round(seconds * 1000, 1) for phase, seconds in phases.items()},
            },
        )

    async def _read_refusal(self, connection: Connection) -> bool:
        """Whether the pod drains. Its short answer is read so that the connection can be used again."""
        draining = any(name == _REFUSED and value == _DRAINING for name, value in connection.headers)
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
        return draining


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
