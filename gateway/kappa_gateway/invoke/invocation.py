"""The path of one invocation, from top to bottom: a slot, a connection to its pod, the answer, and its counts.

- *Warm*: a pod with a free slot is there; the request goes to it at once.
- *Cold, from a pool*: the dispatcher claimed a pool pod for this function. The first request to that pod specializes
  it, and the pod's answer is the invocation's. Where another gateway claims for this function, the request is passed on
  to that gateway.
- *Cold, from the Deployment*: the request waits; the demand feed reports it, the operator scales the Deployment, the
  dialer finds the new pod ready, and the slot wakes the first request that waits.

Nothing is sent twice unless it cannot have run: see `transport.endpoint`.
"""

import asyncio
import logging
import math
import time
from typing import Final

from kappa_core import errors, wire
from kappa_core.errors import PodLost
from kappa_core.metrics import ColdStartReason, InvocationType, Outcome, Phase
from kappa_gateway.invoke import cold_start
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.outcome import ClientGone
from kappa_gateway.invoke.request import Request
from kappa_gateway.pods.claim import ClaimState
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState, PodState, PodStatus, Ticket
from kappa_gateway.pods.warm.claims import CONNECT_TIMEOUT as CLAIMED_CONNECT_TIMEOUT
from kappa_gateway.transport.connection import Connection
from kappa_gateway.transport.endpoint import FRESH

logger = logging.getLogger(__name__)

_REFUSED: Final = wire.REFUSED.lower().encode()
_FOR_GOOD: Final = (wire.REFUSED_DRAINING, wire.REFUSED_POOL)
"""A pod that answers with one of these gets no further requests."""
_DURATION: Final = wire.DURATION_MS.lower().encode()
_FUNCTION_ERROR: Final = wire.FUNCTION_ERROR.lower().encode()
_COLD_START: Final = wire.COLD_START.lower().encode()


class Place:
    """What the caller of an invocation can observe and decide while the invocation asks for a slot. This base class
    ignores everything."""

    def waits(self) -> None:
        """It asks for a slot, and holds none."""

    def may_begin(self) -> bool:
        """It has a slot: whether the request may be sent now. If not, the slot is released and `send` returns None."""
        return True


_ANY_PLACE: Final = Place()


class Invocation:
    """`await send(…)`, read the connection's answer, then `end(outcome)`, always. `abort` may come at any time.

    `kind` None: another gateway passed it on, and counts it. `stays`: it is not to be passed on to another gateway.
    """

    __slots__ = (
        "_answered",
        "_arrived",
        "_asked",
        "_came_whole",
        "_client_gone",
        "_connection",
        "_future",
        "_granted",
        "_invoker",
        "_place",
        "_ran",
        "_sent",
        "_ticket",
        "_withdrawn",
        "cold_start",
        "function",
        "function_error",
        "kind",
        "request_id",
    )

    def __init__(
        self,
        invoker: Invoker,
        function: FunctionState,
        kind: InvocationType | None,
        request_id: str,
        *,
        stays: bool = False,
        place: Place = _ANY_PLACE,
    ) -> None:
        self.function = function
        self.kind = kind
        self.request_id = request_id
        self.function_error = False
        """Whether the answer says that the function failed."""
        self.cold_start: bytes | None = None
        """The value of the answer's header `wire.COLD_START`, if the invocation waited for a pod to start."""
        self._invoker = invoker
        self._place = place
        self._ticket = Ticket(function, stays=stays)
        self._connection: Connection | None = None
        self._client_gone = False
        self._withdrawn = False
        self._came_whole = False
        """Whether the answer's head and body came in one piece, so that passing it on is the gateway's time alone."""
        self._arrived = self._asked = time.monotonic()
        self._granted = self._sent = self._answered = 0.0
        self._ran: float | None = None
        """Seconds, as the agent says; in a burst the gateway itself may be late to see the answer."""
        self._future: asyncio.Future[None] | None = None

    @property
    def has_slot(self) -> bool:
        return self._ticket.pod is not None

    @property
    def protocol(self) -> str:
        """The protocol of the pod that has the request; without such a pod, the function's."""
        pod = self._ticket.pod
        return pod.observed.protocol if pod is not None else self.function.protocol

    # -- the way

    async def send(self, request: Request) -> Connection | None:
        """Send the request to a pod of the function, and return the connection once the answer's head is there.

        None: the invocation was withdrawn, or must not begin, and nothing was sent. Raises `Throttled`,
        `FunctionFailed`, `FunctionNotFound`, `PodLost`, `BadAnswer`, `GatewayTimeout` or `ClientGone`.
        """
        dispatcher = self._invoker.dispatcher
        self._asked = time.monotonic()
        self._place.waits()
        granted = dispatcher.acquire(self._ticket)
        while True:
            place = await self._slot(granted)
            if place is None:
                return None
            if isinstance(place, Peer):
                connection = await self._pass_on(place, request)
                if connection is not None:
                    return connection
                granted = dispatcher.returned(self._ticket)
                continue
            connection = await self._connect(place, idempotent=request.idempotent)
            if connection is None:
                granted = self._unreachable()
                continue
            if place.claim is not None and place.claim.state is ClaimState.CLAIMED:
                if await self._specialize(place, connection, request):
                    return connection
                granted = dispatcher.refused(self._ticket, draining=True)
                continue
            while not await self._exchange(connection, request):
                # closed while it idled, before the first byte of an answer: what is idempotent may run twice
                again = await self._connect(place, idempotent=True)
                if again is None:
                    granted = self._unreachable()
                    break
                connection = again
            else:
                if self._read_head(connection, place):
                    return connection
                granted = await self._refused(place, connection)

    async def slot(self) -> PodState:
        """Only a pod, for a connection that the caller opens and reads itself (WebSocket). Raises as `send`."""
        return await self._pod(self._invoker.dispatcher.acquire(self._ticket))

    async def next_slot(self) -> PodState:
        """As `slot`, where that pod took no connection."""
        return await self._pod(self._unreachable())

    async def _pod(self, granted: bool) -> PodState:
        place = await self._slot(granted)
        if not isinstance(place, PodState):
            raise ClientGone
        return place

    def _unreachable(self) -> bool:
        """The pod took no connection: have it dialled, and ask for another one. As `Dispatcher.acquire`."""
        pod = self._ticket.pod
        if self._client_gone or pod is None:
            raise ClientGone
        if pod.claim is not None and pod.claim.state is ClaimState.CLAIMED:
            self._invoker.claims.unreachable(pod)
            return self._invoker.dispatcher.refused(self._ticket, draining=True)
        self._invoker.dialer.dial(pod)
        return self._invoker.dispatcher.unreachable(self._ticket)

    # -- its end

    def end(self, outcome: Outcome, *, keep_connection: bool = False) -> Connection | None:
        """Release everything, and count. Idempotent.

        With `keep_connection` the slot alone is released: the connection that is returned carries no further request
        until the caller calls its `finish`.
        """
        if not self._arrived:
            return None
        if self._client_gone:
            outcome = Outcome.CANCELLED
        now = time.monotonic()
        duration, self._arrived = now - self._arrived, 0.0
        counts = self.function.counts if self.kind is not None else None
        if counts is not None and self.kind is not None:
            counts.count(self.kind, outcome)
            if outcome is Outcome.THROTTLED:
                counts.throttles += 1
        pod = self._ticket.pod
        connection, self._connection = self._connection, None
        kept = None
        if connection is not None:
            if counts is not None:
                counts.duration.observe(duration)
            if keep_connection and connection.complete:
                kept = connection
                kept.deadline = math.inf
            else:
                connection.finish()
        dispatcher = self._invoker.dispatcher
        duration_at_pod = self._ran if self._ran is not None else now - self._sent
        dispatcher.release(self._ticket, duration_at_pod if self._answered else None)
        if self._answered:
            if counts is not None:
                waited, own = self._granted - self._ticket.since, duration - (now - self._sent)
                counts.overhead.observe(own - waited + (now - self._answered if self._came_whole else 0.0))
            if pod is not None and pod.status is PodStatus.INIT_FAILED and not self.function_error:
                dispatcher.set_status(pod, PodStatus.READY)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "invocation",
                extra={
                    "function": self.function.key,
                    "request_id": self.request_id,
                    "type": self.kind.value if self.kind is not None else "passed on",
                    "outcome": outcome.value,
                    "duration_ms": round(duration * 1000, 3),
                },
            )
        return kept

    def forget(self) -> None:
        """This turned out not to be an invocation: `end` counts nothing."""
        self._arrived = 0.0

    def abort(self) -> None:
        """The caller went away: the slot is free at once, and the pod sees the connection break."""
        self._client_gone = True
        if self._connection is not None:
            self._connection.abort(ClientGone())
        self._invoker.dispatcher.release(self._ticket)
        self._wake()

    def withdraw(self) -> None:
        """Stop waiting for a slot, now and in later tries. A request that was already sent is not affected."""
        self._withdrawn = True
        if self._future is not None:
            self._invoker.dispatcher.release(self._ticket)
            self._wake()

    # -- a slot

    async def _slot(self, granted: bool) -> PodState | Peer | None:
        """Where the request goes; None if it was withdrawn, or must not begin."""
        ticket = self._ticket
        if not granted:
            if self._withdrawn:
                self._invoker.dispatcher.release(ticket)
                return None
            self._place.waits()
            await self._until_woken()
        if self._client_gone:
            raise ClientGone
        if ticket.error is not None:
            raise ticket.error
        if ticket.pod is None and ticket.peer is None:
            return None
        if not self._place.may_begin():
            self._invoker.dispatcher.release(ticket)
            return None
        return ticket.pod or ticket.peer

    async def _until_woken(self) -> None:
        self._future = asyncio.get_running_loop().create_future()
        self._ticket.wake = self._wake
        try:
            await self._future
        finally:
            self._future = None
            self._ticket.wake = None

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    # -- a pod

    async def _connect(self, pod: PodState, *, idempotent: bool) -> Connection | None:
        """A connection to the slot's pod; None if it takes none."""
        self._granted = time.monotonic()
        endpoint = pod.endpoint
        if endpoint is None:
            return None
        # Our own agent keeps idle connections open for longer than we do; another server may not.
        certain = idempotent or pod.observed.protocol == "lambda"
        connection = endpoint.take(None if certain else FRESH)
        if connection is None:
            claimed = pod.claim is not None and pod.claim.state is ClaimState.CLAIMED
            try:
                connection = await endpoint.connect(
                    CLAIMED_CONNECT_TIMEOUT if claimed else self._invoker.connect_timeout
                )
            except OSError as error:
                logger.info(
                    "pod takes no connection",
                    extra={"function": self.function.key, "pod": pod.name, "error": str(error) or repr(error)},
                )
                return None
        self._connection = connection
        if self._client_gone:
            endpoint.keep(connection)
            self._connection = None
            raise ClientGone
        return connection

    async def _exchange(self, connection: Connection, request: Request) -> bool:
        """Send the request and wait for the answer's head. False: it may be sent again, over another connection."""
        function = self.function
        self._sent = time.monotonic()
        connection.begin(
            self._sent + function.timeout + self._invoker.answer_margin,
            subject=function.key,
            timeout=function.timeout,
            is_head=request.is_head,
        )
        connection.write(request.head(function) + request.body)
        try:
            if request.more is not None:
                await request.more(connection)
            await connection.head()
        except PodLost:
            # RFC 9110 §9.2.2
            if request.idempotent and connection.used and not connection.received and request.more is None:
                connection.finish()
                return False
            raise
        return True

    def _read_head(self, connection: Connection, pod: PodState) -> bool:
        """Whether the pod took the request; notes what the answer's head says."""
        status = connection.status
        for name, value in connection.headers:
            if name == _FUNCTION_ERROR:
                self.function_error = True
            elif name == _DURATION:
                self._ran = _seconds(value)
            elif name == _REFUSED and (status == 429 or status == 503) and pod.observed.protocol == "lambda":
                return False
        self._answered = time.monotonic()
        self._came_whole = connection.complete
        if not pod.start.answered:
            pod.start.answered = True
            self._count_cold_start(connection, pod)
        return True

    async def _refused(self, pod: PodState, connection: Connection) -> bool:
        """The pod ran nothing: ask for another one. As `Dispatcher.acquire`."""
        reason, _ = await self._read_refusal(connection)
        if reason == wire.REFUSED_POOL:
            self._invoker.claims.has_no_function(pod)
        elif reason == wire.REFUSED_DRAINING and pod.endpoint is not None:
            pod.endpoint.retire()
        return self._invoker.dispatcher.refused(self._ticket, draining=reason in _FOR_GOOD)

    async def _read_refusal(self, connection: Connection) -> tuple[str, bytes]:
        """The reason and the short body, which is read so that the connection can be used again."""
        reason = next((value.decode("latin-1") for name, value in connection.headers if name == _REFUSED), "")
        body = bytearray()
        while (chunk := await connection.chunk()) is not None:
            body += chunk
            if len(body) > 65536:
                connection.keep_alive = False
                break
        connection.finish()
        self._connection = None
        if self._client_gone:
            raise ClientGone
        return reason, bytes(body)

    # -- a pool pod

    async def _specialize(self, pod: PodState, connection: Connection, request: Request) -> bool:
        """Whether the pod took the function and the request. If not, the pod ran nothing and does not belong to the
        function."""
        invoker, function = self._invoker, self.function
        assert invoker.specializer is not None
        try:
            data, spec_hash = invoker.specializer.request(pod, self.request_id, request.head(function), request.body)
        except ValueError as error:
            invoker.does_not_fit(function, str(error))
            if pod.endpoint is not None:
                pod.endpoint.keep(connection)
            self._connection = None
            invoker.claims.unreachable(pod)
            return False
        self._sent = time.monotonic()
        limit = function.timeout + invoker.specializer.start_timeout(function.manifest) + invoker.answer_margin
        connection.begin(self._sent + limit, subject=function.key, timeout=function.timeout)
        connection.write(data)
        invoker.claims.sent(pod, spec_hash)
        try:
            await connection.head()
        except BaseException:
            invoker.claims.uncertain(pod)
            invoker.dialer.dial(pod)
            raise
        if connection.status == 200:
            self._read_head(connection, pod)
            invoker.claims.accepted(pod)
            return True
        reason = f"HTTP {connection.status}"
        try:
            reason = (await self._read_refusal(connection))[0] or reason
        finally:
            invoker.claims.refused(pod, reason)
        return False

    # -- another gateway

    async def _pass_on(self, peer: Peer, request: Request) -> Connection | None:
        """The other gateway's connection, once its answer's head is there; None: it did not take the request."""
        invoker, function = self._invoker, self.function
        if invoker.peers is None:
            return None
        self._granted = time.monotonic()
        connection = await invoker.peers.connect(peer)
        if connection is None:
            return None
        self._connection = connection
        if self._client_gone:
            connection.close()
            raise ClientGone
        self._sent = time.monotonic()
        # it may wait there, and the pod may have to start
        limit = invoker.max_wait + function.timeout + 2 * invoker.answer_margin
        if invoker.specializer is not None:
            limit += invoker.specializer.start_timeout(function.manifest)
        connection.begin(self._sent + limit, subject=function.key, timeout=function.timeout)
        connection.write(invoker.peers.head(request.head(function), function, self.request_id) + request.body)
        await connection.head()
        if any(name == _REFUSED for name, _ in connection.headers):
            reason, body = await self._read_refusal(connection)
            if reason == wire.REFUSED_ERROR:
                raise errors.decode(body)
            return None
        for name, value in connection.headers:
            if name == _FUNCTION_ERROR:
                self.function_error = True
            elif name == _DURATION:
                self._ran = _seconds(value)
            elif name == _COLD_START:
                self.cold_start = value
        self._answered = time.monotonic()
        self._came_whole = connection.complete
        return connection

    # -- what is counted

    def _count_cold_start(self, connection: Connection, pod: PodState) -> None:
        """The pod's first answer: count the start, if this request waited for it."""
        agent = cold_start.agent_phases(connection.headers)
        if pod.claim is not None:
            path, reason = cold_start.POOL, ColdStartReason.CLAIMED
            phases = cold_start.pool_phases(self._asked, self._granted, self._sent, self._answered, agent)
        else:
            to_epoch = time.time() - time.monotonic()
            asked, ready = self._asked + to_epoch, pod.start.ready
            if ready is None or asked >= ready:
                return  # the pod was there already
            path, reason = cold_start.DEPLOYMENT, self._ticket.cold_reason or ColdStartReason.STARTING
            run = agent.get(Phase.RUN, 0.0)
            phases = cold_start.deployment_phases(asked, pod, self._answered + to_epoch, run)
            self._invoker.dispatcher.observe_cold_start(self.function, ready - asked)
        self.cold_start = cold_start.header(path, phases)
        self.function.counts.cold_start(path, reason, phases)
        logger.info(
            "cold start",
            extra={
                "function": self.function.key,
                "pod": pod.name,
                "request_id": self.request_id,
                "path": path,
                "reason": reason.value,
                "phases_ms": {phase.value: round(seconds * 1000, 2) for phase, seconds in phases.items()},
            },
        )


def _seconds(milliseconds: bytes) -> float | None:
    """None if the value is not a duration: an image's own server may send anything."""
    try:
        seconds = float(milliseconds) / 1000
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
