"""One lane's pump: receives events from the queue as there is room for them, and holds each until its run has ended."""

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.events import capacity
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.capacity import Brake, Budget
from kappa_gateway.events.holding import Holding, Run
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import EventLease, Queue

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


class PumpRules:
    """What the pumps of one kind of lane share.

    `left_to` names the gateway that receives a function's events in place of this one, None where this one does.
    `put_aside` deals with an event whose run ended with a bug, and returns the seconds until it comes again.
    `clock`: seconds, monotonic. `first_brake` is in seconds, `typical_bytes` the size that an event is first taken for.
    """

    def __init__(
        self,
        queue: Queue,
        availability: QueueAvailability,
        functions: Functions,
        backlog: Backlog,
        budget: Budget,
        *,
        make_run: Callable[[Holding, EventLease], Run],
        put_aside: Callable[[Run, Exception], Awaitable[float | None]],
        left_to: Callable[[FunctionState], Peer | None],
        clock: Callable[[], float],
        first_brake: float,
        typical_bytes: int,
    ) -> None:
        self.queue = queue
        self.availability = availability
        self.functions = functions
        self.backlog = backlog
        self.budget = budget
        self.make_run = make_run
        self.put_aside = put_aside
        self.left_to = left_to
        self.clock = clock
        self.first_brake = first_brake
        self.typical_bytes = typical_bytes


class Pump:
    """`run` in a task of its own: it ends once the lane has no work. `stop`: receive nothing more."""

    def __init__(self, rules: PumpRules, lane: Lane) -> None:
        self.lane = lane
        self.held: dict[HeldEvent, asyncio.Task[None]] = {}
        self.ended = False
        self._rules = rules
        self._newest: dict[str, asyncio.Task[None]] = {}
        """Of each event that is held, by its id: its last run."""
        self._pending = 0
        """Of the events that are held: how many wait for a slot."""
        self._held_bytes = 0
        self._brake = Brake(rules.first_brake, DELIVERY_BRAKE if lane.kind is Kind.DELIVERY else capacity.LONGEST_BRAKE)
        self._stopping = False
        self._woken = asyncio.Event()
        self._more = True
        """Whether there may be something to receive."""
        self._typical_bytes = rules.typical_bytes
        self._dues: list[int] = []
        """When retries are due, in steps of the monotonic clock, as a heap; each step once."""
        self._due_steps: set[int] = set()
        self._abandoned = False
        self._seen: tuple[object, ...] = ()

    # -- from outside

    def notify(self, *, abandoned: bool = False) -> None:
        """There may be something to receive. `abandoned`: its function does not exist, and it is old enough to be ended."""
        self._more = True
        self._abandoned = abandoned
        self._woken.set()

    def function_changed(self, function: FunctionState) -> None:
        """What held it back may be mended."""
        generation = function.manifest.metadata.generation if function.manifest is not None else None
        seen = (generation, function.failure is None, function.max_replicas)
        if seen != self._seen:
            self._seen = seen
            self._brake.release()
            self.notify()

    def stop(self) -> None:
        """Receive nothing more, and return what waits for a slot."""
        self._stopping = True
        self._woken.set()
        for held in list(self.held):
            held.run.withdraw()

    async def run(self) -> None:
        """Until the lane has no work, or the gateway stops."""
        while not self._stopping:
            try:
                await self._pump()
                break
            except Exception:
                logger.exception("a bug stopped a lane's pump; going on", extra={"lane": str(self.lane)})
                self._more = True
                await asyncio.sleep(_AFTER_BUG)
        self.ended = True
        self._rules.budget.stop_waiting(self._wake)

    # -- receiving

    async def _pump(self) -> None:
        while not self._stopping:
            self._woken.clear()
            count = self._room() if self._more else 0
            if count:
                await self._receive(count)
                continue
            idle = not self._more and not self._dues
            if not self.held and (idle or self._waits_for_function() or self._is_left()):
                return
            await self._wait()

    async def _receive(self, count: int) -> None:
        rules, budget = self._rules, self._rules.budget
        budget.take(count, 0)
        leases: list[EventLease] = []
        self._more = False  # what comes meanwhile sets it again
        try:
            leases = await rules.queue.receive(self.lane, count, 0.0)
        except QueueUnavailable as error:
            rules.availability.failed(error)
            self._more = True
            await asyncio.sleep(QUEUE_PAUSE)
            return
        finally:
            budget.give(count - len(leases), 0)
        rules.availability.answered()
        if len(leases) == count:
            self._more = True
        if leases:
            largest = max(len(lease.event.payload) for lease in leases)
            self._typical_bytes = max(largest, self._typical_bytes // 2, 1024)
        if self.lane.kind is Kind.INVOCATION:
            waiting = leases[-1].waiting if leases else 0
            rules.backlog.received(self.lane.namespace, self.lane.function, waiting)
        for lease in leases:
            self._hold(lease)

    async def _wait(self) -> None:
        """For something to change, or the time to come at which something is due."""
        now = self._rules.clock()
        times = [self._dues[0] * DUE_STEP] if self._dues else []
        if self._more and self._brake.on and self._brake.until > now:
            times.append(self._brake.until)
        try:
            async with asyncio.timeout(max(min(times) - now, 0.0) if times else None):
                await self._woken.wait()
        except TimeoutError:
            pass
        now = self._rules.clock()
        while self._dues and self._dues[0] * DUE_STEP <= now:
            self._due_steps.discard(heapq.heappop(self._dues))
            self._more = True

    def _wake(self) -> None:
        """There may be room."""
        self._woken.set()

    # -- how many

    def _room(self) -> int:
        held, budget = len(self.held), self._rules.budget
        if self._brake.on and (held or self._rules.clock() < self._brake.until):
            return 0
        within = budget.room(held_events=held, held_bytes=self._held_bytes, typical_bytes=self._typical_bytes)
        wanted = DELIVERIES_AT_ONCE - held if self.lane.kind is Kind.DELIVERY else self._wanted()
        if wanted > 0 and not within:
            budget.wait(self._wake)
        return min(wanted, within, 1 if self._brake.on else wanted)

    def _wanted(self) -> int:
        function = self._function()
        if function is None or not function.max_replicas:
            # what is received can only be ended
            return 0 if self._waits_for_function() else capacity.MOST_AHEAD - len(self.held)
        if self._is_left():
            return 0
        slots = free = 0
        for pod in function.pods.values():
            if pod in function.available:
                slots += pod.limit
                free += max(pod.limit - pod.outstanding, 0)
            elif pod.outstanding:
                slots += pod.outstanding
        # whoever waits and is no event of ours is a caller
        callers_wait = len(function.waiters) > self._pending
        ahead = capacity.ahead(slots, function.mean_duration, callers_wait=callers_wait)
        return capacity.batch(free_slots=free, ahead=ahead, pending=self._pending)

    def _function(self) -> FunctionState | None:
        return self._rules.functions.get(self.lane.namespace, self.lane.function)

    def _waits_for_function(self) -> bool:
        """The lane's function does not exist, and may be applied again."""
        return self.lane.kind is Kind.INVOCATION and not self._abandoned and self._function() is None

    def _is_left(self) -> bool:
        """Another gateway receives this lane's events."""
        function = self._function() if self.lane.kind is Kind.INVOCATION else None
        return function is not None and self._rules.left_to(function) is not None

    # -- events that are held

    def _hold(self, lease: EventLease) -> None:
        """From here until `_ended` the event is this gateway's."""
        event_id = lease.event.id
        held = HeldEvent(self, lease)
        if self._stopping:
            held.run.withdraw()
        process = self._process(held, self._newest.get(event_id))
        task = asyncio.get_running_loop().create_task(process, name=f"event {event_id}")
        self.held[held] = self._newest[event_id] = task
        task.add_done_callback(lambda _: self._ended(held))

    async def _process(self, held: "HeldEvent", earlier: asyncio.Task[None] | None) -> None:
        """`earlier`: this gateway's own run of the same event, on a lease that expired while the gateway stood still."""
        if earlier is not None:
            # it may be on its way to a pod, which cannot know of it yet
            await asyncio.wait({earlier})
        event_id = held.run.lease.event.id
        try:
            await held.run.run()
        except Exception as error:
            logger.exception("a bug stopped an event", extra={"request_id": event_id})
            try:
                delay = await self._rules.put_aside(held.run, error)
                if delay is not None:
                    self.due_in(delay)
            except Exception:
                # then its lease expires
                logger.exception("an event could not be put aside either", extra={"request_id": event_id})

    def _ended(self, held: "HeldEvent") -> None:
        task, event_id = self.held.pop(held), held.run.lease.event.id
        if self._newest.get(event_id) is task:
            del self._newest[event_id]
        held.release()
        self._rules.budget.give(1, 0)
        self._woken.set()
        self._rules.budget.wake_next()

    # -- for `HeldEvent`

    def make_run(self, held: "HeldEvent", lease: EventLease) -> Run:
        return self._rules.make_run(held, lease)

    def now(self) -> float:
        return self._rules.clock()

    def count_pending(self, change: int) -> None:
        self._pending += change
        if change < 0:
            self._woken.set()

    def count_bytes(self, change: int, *, payload: int = 0) -> None:
        """`change` bytes of the budget, of which `payload` count as the lane's own."""
        self._rules.budget.take(0, change)
        self._held_bytes += payload

    def due_in(self, delay: float) -> None:
        step = int((self._rules.clock() + delay) / DUE_STEP) + 1
        if step not in self._due_steps:
            self._due_steps.add(step)
            heapq.heappush(self._dues, step)
            self._woken.set()

    def brake(self, *, available: bool, begun: float) -> None:
        """What an attempt that began then showed of the function: whether it runs anything at all."""
        if available:
            self._brake.release()
            self._woken.set()
        else:
            self._brake.pull(self._rules.clock(), begun)


class HeldEvent:
    """The pump's account of one event: whether it waits for a slot, and its bytes. A `holding.Holding`."""

    def __init__(self, pump: Pump, lease: EventLease) -> None:
        self._pump = pump
        self._begun = pump.now()
        self._is_pending = True
        self._payload = len(lease.event.payload)
        self._size = self._payload
        pump.count_pending(1)
        pump.count_bytes(self._size, payload=self._size)
        self.run = pump.make_run(self, lease)

    def placed(self, placed: bool) -> None:
        if placed is self._is_pending:
            self._is_pending = not placed
            self._pump.count_pending(-1 if placed else 1)

    def hold(self, size: int) -> None:
        self._size += size
        self._pump.count_bytes(size)

    def attempted(self, *, available: bool) -> None:
        self._pump.brake(available=available, begun=self._begun)

    def due_in(self, delay: float) -> None:
        self._pump.due_in(delay)

    def release(self) -> None:
        """Its run has ended."""
        self.placed(True)
        self._pump.count_bytes(-self._size, payload=-self._payload)
        self._size = self._payload = 0
