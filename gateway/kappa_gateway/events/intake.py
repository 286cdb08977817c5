"""Where events come in: from callers (`enqueue`), and as what follows from other events (`accept`).

No pod is needed yet, so an event is accepted even if its function cannot run now or has `maxReplicas: 0`.

An event's `attributes`:

| attribute | of | holds |
| --- | --- | --- |
| `x-amz-client-context`, `x-amzn-trace-id`, `x-amz-cognito-identity` | lambda functions | headers for the pod |
| `http.method`, `http.target` | web servers | the request line's: target is path and query as the server sees them |
| `http.headers` | web servers | JSON, `[[name, value], …]`: all but `Content-Length` |
"""

from collections.abc import Callable
from typing import Final

from kappa_core.errors import QueueUnavailable, RequestTooLarge
from kappa_core.event import HTTP_HEADERS as HTTP_HEADERS
from kappa_core.event import HTTP_METHOD as HTTP_METHOD
from kappa_core.event import HTTP_TARGET as HTTP_TARGET
from kappa_core.event import Event, Kind, Lane
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import Queue

MAX_STORING: Final = 4096
"""Events that wait for the queue's confirmation at a time: what a slow queue may cost in memory."""


class Intake:
    """`notify` wakes a lane of this gateway. `left_to` names the gateway that receives a function's events in place of
    this one, None where this one does; `notify_peer` wakes it. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        queue: Queue,
        functions: Functions,
        backlog: Backlog,
        counts: EventCounts,
        *,
        notify: Callable[[Lane], None],
        left_to: Callable[[FunctionState], Peer | None],
        notify_peer: Callable[[Peer, FunctionState], None],
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._functions = functions
        self._backlog = backlog
        self._counts = counts
        self._notify = notify
        self._left_to = left_to
        self._notify_peer = notify_peer
        self._clock = clock
        self._storing = 0

    async def enqueue(
        self, function: FunctionState, request_id: str, payload: bytes, attributes: dict[str, str], *, keyed: bool
    ) -> bool:
        """True: the queue has the event, durably. False: it was known already. `keyed`: its id is an idempotency key's.

        Raises `RequestTooLarge`, `QueueUnavailable` or `QueueFull`.
        """
        limit = self._queue.max_event_bytes
        if limit is not None and len(payload) > limit:
            raise RequestTooLarge(f"the event is {len(payload)} bytes as it is stored; the queue takes {limit} at most")
        if self._storing >= MAX_STORING:
            raise QueueUnavailable(
                f"the queue does not keep up: {MAX_STORING} events wait for it at this gateway; try again in a moment"
            )
        lane = Lane(Kind.INVOCATION, function.namespace, function.name)
        self._storing += 1
        try:
            return await self.accept(Event(request_id, lane, payload, self._clock(), attributes, keyed))
        finally:
            self._storing -= 1

    async def accept(self, event: Event) -> bool:
        """As `enqueue`, for any lane and without limits of its own. Raises `QueueUnavailable` or `QueueFull`."""
        lane = event.lane
        added = await self._queue.enqueue(event)
        if lane.kind is Kind.INVOCATION:
            counted = self._counts.of(lane)
            if added:
                counted.received += 1
            else:
                counted.deduplicated += 1
        if added:
            self._announce(lane)
        return added

    def _announce(self, lane: Lane) -> None:
        """Wake whoever receives it."""
        if lane.kind is Kind.DELIVERY:
            self._notify(lane)
            return
        function = self._functions.get(lane.namespace, lane.function)
        if function is None:
            return
        peer = self._left_to(function)
        if peer is None:
            self._backlog.accepted(lane.namespace, lane.function)
            self._notify(lane)
        else:
            # that gateway receives it within milliseconds; counted here too, it would be two pods' worth of demand
            self._notify_peer(peer, function)
