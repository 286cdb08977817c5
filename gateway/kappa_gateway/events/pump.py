"""One lane's pump: takes events from the queue as there is room for them, and starts their handling."""

import asyncio
import heapq
import logging
from typing import TYPE_CHECKING, Final

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane, Trouble
from kappa_gateway.events import room
from kappa_gateway.events.handling import Handling
from kappa_gateway.events.tries import Tried
from kappa_gateway.queue.protocol import EventLease
from kappa_gateway.state import FunctionState

if TYPE_CHECKING:
    from kappa_gateway.events.service import Events

logger = logging.getLogger(__name__)

DUE_STEP: Final = 0.25
"""Seconds: retries that are due within the same step are looked for together."""
DELIVERIES_AT_ONCE: Final = 4
"""Of one lane."""
DELIVERY_BRAKE: Final = 5.0
"""Seconds. A lane may hold deliveries to several destinations, of which one works."""
QUEUE_PAUSE: Final = 1.0
"""Seconds until a queue that is away is asked again."""
_AFTER_BUG: Final = 1.0


class Pump:
    """Made by `Events` for a lane that seems to have work; ends by itself once it has none."""

    def __init__(self, events: "Events", lane: Lane) -> None:
        settings = events.gateway.settings
        self.lane = lane
        self.in_hand: dict[Handling, asyncio.Task[None]] = {}
        self._newest: dict[str, asyncio.Task[None]] = {}
        """Of each event in hand, by its id: its last handling."""
        self.pending = 0
        """Of those in hand: how many wait for a slot."""
        self.held_bytes = 0
        is_delivery = lane.kind is Kind.DELIVERY
        self.brake = room.Brake(settings.event_first_backoff, DELIVERY_BRAKE if is_delivery else room.LONGEST_BRAKE)
        self.budget = events.delivery_budget if is_delivery else events.budget
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self._events = events
        self._woken = asyncio.Event()
        self._more = True
        """Whether there may be something to take."""
        self._typical_bytes = settings.event_max_bytes
        self._dues: list[int] = []
        """When retries are due, in steps of the monotonic clock, as a heap; each step once."""
        self._due_steps: set[int] = set()
        self._abandoned = False
        self._seen: tuple[object, ...] = ()

    # -- what it is told

    def notify(self, *, abandoned: bool = False) -> None:
        """There may be something to take. `abandoned`: though there is no such function, it is old enough to be ended."""
        self._more = True
        self._abandoned = abandoned
        self._woken.set()

    def wake(self) -> None:
        """There may be room."""
        self._woken.set()

    def due_in(self, delay: float) -> None:
        step = int((self._events.monotonic() + delay) / DUE_STEP) + 1
        if step not in self._due_steps:
            self._due_steps.add(step)
            heapq.heappush(self._dues, step)
            self._woken.set()

    def placed(self, placed: bool) -> None:
        """An event in hand got its slot, or waits again."""
        self.pending += -1 if placed else 1
        if placed:
            self._woken.set()

    def tried(self, tried: Tried, begun: float) -> None:
        """What a try says about the function: whether it runs at all."""
        if tried.trouble is Trouble.UNAVAILABLE:
            self.brake.pull(self._events.monotonic(), begun)
        else:
            self.brake.release()
            self._woken.set()

    def function_changed(self, function: FunctionState) -> None:
        """What held it back may be mended."""
        generation = function.function.metadata.generation if function.function is not None else None
        seen = (generation, function.failure is None, function.max_replicas)
        if seen != self._seen:
            self._seen = seen
            self.brake.release()
            self.notify()

    # -- its life

    async def run(self) -> None:
        """Until the lane has no work, or the gateway stops."""
        while not self._events.stopping:
            try:
                await self._pump()
                break
            except Exception:
                logger.exception("a bug stopped a lane's pump; going on", extra={"lane": str(self.lane)})
                self._more = True
                await asyncio.sleep(_AFTER_BUG)
        self.ended = True

    async def _pump(self) -> None:
        while not self._events.stopping:
            self._woken.clear()
            count = self._room() if self._more else 0
            if count:
                await self._take(count)
                continue
            idle = not self._more and not self._dues
            if not self.in_hand and (idle or self._waits_for_function()):
                return
            await self._wait()

    async def _take(self, count: int) -> None:
        events = self._events
        self.budget.take(count, 0)
        leases: list[EventLease] = []
        self._more = False  # what comes while it is asked for sets it again
        try:
            leases = await events.queue.receive(self.lane, count, 0.0)
        except QueueUnavailable as error:
            events.outage.seen(error)
            self._more = True
            await asyncio.sleep(QUEUE_PAUSE)
            return
        finally:
            self.budget.give(count - len(leases), 0)
        events.outage.over()
        if len(leases) == count:
            self._more = True
        if leases:
            largest = max(len(lease.event.payload) for lease in leases)
            self._typical_bytes = max(largest, self._typical_bytes // 2, 1024)
        self._note_backlog(leases[-1].waiting if leases else 0)
        for lease in leases:
            self._start(lease)

    async def _wait(self) -> None:
        """For something to change, or the time to come at which something is due."""
        now = self._events.monotonic()
        times = [self._dues[0] * DUE_STEP] if self._dues else []
        if self._more and self.brake.on and self.brake.until > now:
            times.append(self.brake.until)
        try:
            async with asyncio.timeout(max(min(times) - now, 0.0) if times else None):
                await self._woken.wait()
        except TimeoutError:
            pass
        now = self._events.monotonic()
        while self._dues and self._dues[0] * DUE_STEP <= now:
            self._due_steps.discard(heapq.heappop(self._dues))
            self._more = True

    # -- how many

    def _room(self) -> int:
        in_hand = len(self.in_hand)
        if self.brake.on and (in_hand or self._events.monotonic() < self.brake.until):
            return 0
        within = self.budget.room(held_events=in_hand, held_bytes=self.held_bytes, typical_bytes=self._typical_bytes)
        if self.lane.kind is Kind.DELIVERY:
            wanted = DELIVERIES_AT_ONCE - in_hand
        else:
            wanted = self._wanted()
        if wanted > 0 and not within:
            self._events.short_of_budget(self)
        return min(wanted, within, 1 if self.brake.on else wanted)

    def _wanted(self) -> int:
        function = self._function()
        if function is None or not function.max_replicas:
            # what is taken can only be ended
            return 0 if self._waits_for_function() else room.MOST_AHEAD - len(self.in_hand)
        slots = free = 0
        for pod in function.pods.values():
            if pod in function.available:
                slots += pod.limit
                free += max(pod.limit - pod.outstanding, 0)
            elif pod.outstanding:
                slots += pod.outstanding
        # whoever waits and is no event of ours is a caller
        callers_wait = len(function.waiters) > self.pending
        ahead = room.ahead(slots, function.mean_duration, callers_wait=callers_wait)
        return room.batch(free_slots=free, ahead=ahead, pending=self.pending)

    def _function(self) -> FunctionState | None:
        return self._events.gateway.registry.get(self.lane.namespace, self.lane.function)

    def _waits_for_function(self) -> bool:
        """The lane's function is not there, and may be applied again."""
        return self.lane.kind is Kind.INVOCATION and not self._abandoned and self._function() is None

    def _note_backlog(self, waiting: int) -> None:
        function = self._function()
        if function is not None and self.lane.kind is Kind.INVOCATION:
            function.backlog = waiting

    # -- events in hand

    def _start(self, lease: EventLease) -> None:
        events = self._events
        size = len(lease.event.payload)
        self.budget.take(0, size)
        self.held_bytes += size
        self.pending += 1
        event_id = lease.event.id
        handling = Handling(events, self, lease, self._newest.get(event_id))
        if events.stopping:
            handling.withdraw()
        task = events.gateway.loop.create_task(handling.run(), name=f"event {event_id}")
        self.in_hand[handling] = self._newest[event_id] = task
        task.add_done_callback(lambda _: self._ended(handling, size))

    def _ended(self, handling: Handling, size: int) -> None:
        task = self.in_hand.pop(handling)
        if self._newest.get(handling.lease.event.id) is task:
            del self._newest[handling.lease.event.id]
        self.held_bytes -= size
        self.budget.give(1, size)
        self._woken.set()
        self._events.budget_freed()
