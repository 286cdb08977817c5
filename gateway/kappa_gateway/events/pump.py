"""One lane's pump: receives events from the queue as there is room for them, and holds each until its run has ended."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.events import capacity
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.capacity import Brake, Budget
from kappa_gateway.events.held_event import Dues, HeldEvent, LaneAccount
from kappa_gateway.events.holding import Holding, Run
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import EventLease, Queue

logger = logging.getLogger(__name__)

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
        self.held: dict[Run, asyncio.Task[None]] = {}
        self.ended = False
        self._rules = rules
        self._newest: dict[str, asyncio.Task[None]] = {}
        """Of each event that is held, by its id: its last run."""
        longest_brake = DELIVERY_BRAKE if lane.kind is Kind.DELIVERY else capacity.LONGEST_BRAKE
        self._brake = Brake(rules.first_brake, longest_brake)
        self._stopping = False
        self._woken = asyncio.Event()
        self._more = True
        """Whether there may be something to receive."""
        self._typical_bytes = rules.typical_bytes
        self._dues = Dues(rules.clock)
        self._account = LaneAccount(rules.budget, self._brake, self._dues, rules.clock, self._wake)
        self._abandoned = False
        self._seen: tuple[object, ...] = ()

    # -- from outside

    def notify(self, *, abandoned: bool = False) -> None:
        """There may be something to receive. `abandoned`: the function does not exist, and the events are old."""
        self._more = True
        self._abandoned = abandoned
        self._woken.set()

    def function_changed(self, function: FunctionState) -> None:
        """The reason why the lane was held back may be gone."""
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
        for run in list(self.held):
            run.withdraw()

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
            idle = not self._more and self._dues.next is None
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
        times = [self._dues.next] if self._dues.next is not None else []
        if self._more and self._brake.on and self._brake.until > now:
            times.append(self._brake.until)
        try:
            async with asyncio.timeout(max(min(times) - now, 0.0) if times else None):
                await self._woken.wait()
        except TimeoutError:
            pass
        if self._dues.pop():
            self._more = True

    def _wake(self) -> None:
        """There may be room."""
        self._woken.set()

    # -- how many

    def _room(self) -> int:
        held, budget = len(self.held), self._rules.budget
        if self._brake.on and (held or self._rules.clock() < self._brake.until):
            return 0
        within = budget.room(held_events=held, held_bytes=self._account.size, typical_bytes=self._typical_bytes)
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
        # requests that wait, other than our events, are synchronous
        callers_wait = len(function.waiters) > self._account.pending
        ahead = capacity.ahead(slots, function.mean_duration, callers_wait=callers_wait)
        return capacity.batch(free_slots=free, ahead=ahead, pending=self._account.pending)

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
        event = lease.event
        held = HeldEvent(self._account, len(event.payload))
        run = self._rules.make_run(held, lease)
        if self._stopping:
            run.withdraw()
        process = self._process(run, held, self._newest.get(event.id))
        task = asyncio.get_running_loop().create_task(process, name=f"event {event.id}")
        self.held[run] = self._newest[event.id] = task
        task.add_done_callback(lambda _: self._ended(run, held))

    async def _process(self, run: Run, held: HeldEvent, earlier: asyncio.Task[None] | None) -> None:
        """`earlier`: this gateway's own run of the same event, on a lease that expired while the loop was blocked."""
        if earlier is not None:
            # it may be on its way to a pod, which cannot know of it yet
            await asyncio.wait({earlier})
        try:
            await run.run()
        except Exception as error:
            logger.exception("a bug stopped an event", extra={"request_id": run.lease.event.id})
            try:
                delay = await self._rules.put_aside(run, error)
                if delay is not None:
                    held.due_in(delay)
            except Exception:
                # then its lease expires
                logger.exception("an event could not be put aside either", extra={"request_id": run.lease.event.id})

    def _ended(self, run: Run, held: HeldEvent) -> None:
        task, event_id = self.held.pop(run), run.lease.event.id
        if self._newest.get(event_id) is task:
            del self._newest[event_id]
        held.release()
