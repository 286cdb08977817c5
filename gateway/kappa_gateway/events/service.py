"""The gateway's asynchronous side: accepts events into the queue, and dispatches what is there as capacity allows."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Event, Kind, Lane, Policy
from kappa_gateway.events.delivery import Deliverer
from kappa_gateway.events.discovery import ABANDONED_AFTER, Discovery
from kappa_gateway.events.ending import Endings
from kappa_gateway.events.metrics import EventCollector, EventMetrics
from kappa_gateway.events.outage import Outage
from kappa_gateway.events.pump import Pump
from kappa_gateway.events.room import Budget
from kappa_gateway.queue.protocol import Queue
from kappa_gateway.state import FunctionState

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

HEARTBEATS_PER_LEASE: Final = 3
DELIVERIES_AT_ONCE: Final = 32
"""Of all lanes together."""


class Events:
    """`accept` at any time; `run` for as long as the gateway lives; `drain` before its end."""

    def __init__(
        self,
        gateway: "Gateway",
        queue: Queue,
        deliverer: Deliverer,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = gateway.settings
        self.gateway = gateway
        self.queue = queue
        self.deliverer = deliverer
        self.clock = clock
        self.monotonic = monotonic
        self.stopping = False
        self.outage = Outage()
        self.budget = Budget(settings.events_in_hand, max(settings.body_memory_bytes // 2, settings.event_max_bytes))
        self.delivery_budget = Budget(
            DELIVERIES_AT_ONCE, max(settings.body_memory_bytes // 8, settings.event_max_bytes)
        )
        self.endings = Endings(queue, self.outage, settings, put=self.accept, metrics_of=self.metrics_of, clock=clock)
        self._discovery = Discovery(self)
        self.pumps: dict[Lane, Pump] = {}
        self._short: dict[Pump, None] = {}
        """Pumps that wait for the budget, in the order in which they are served."""
        self._running: set[str] = set()
        self.metrics: dict[tuple[str, str], EventMetrics] = {}
        self._policies: dict[FunctionState, tuple[object, Policy]] = {}
        self._default_policy = Policy(
            max_age=ABANDONED_AFTER,
            retry_delays=tuple(settings.event_retry_delays),
            first_backoff=settings.event_first_backoff,
            longest_backoff=settings.event_longest_backoff,
        )
        gateway.on_function_changed.append(self._function_changed)
        gateway.on_function_gone.append(self._function_gone)
        gateway.metrics.register(EventCollector(self.metrics, available=lambda: queue.available, clock=clock))

    # -- for the ways in

    async def accept(self, event: Event) -> bool:
        """Durable when it returns; False: it was there already. Raises `QueueUnavailable`, `QueueFull`."""
        added = await self.queue.enqueue(event)
        counted = self.metrics_of(event)
        if event.lane.kind is Kind.INVOCATION:
            if added:
                counted.received += 1
            else:
                counted.deduplicated += 1
        if added:
            function = self.gateway.registry.get(event.lane.namespace, event.lane.function)
            if event.lane.kind is Kind.DELIVERY:
                self.notify(event.lane)
            elif function is not None:
                # until it is taken, or the queue says more
                function.backlog += 1
                self.notify(event.lane)
        return added

    # -- its life

    async def run(self) -> None:
        """Until cancelled: then what is still in hand is left to run out of its lease."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._discovery.run(), name="event lanes")
                group.create_task(self._heartbeats(), name="event heartbeats")
        finally:
            self.stopping = True
            tasks = self._tasks()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing more, and give back what waits for a pod."""
        self.stopping = True
        for pump in list(self.pumps.values()):
            pump.wake()
            for handling in list(pump.in_hand):
                handling.withdraw()

    async def drain(self, timeout: float) -> None:
        """After `stop`: see to what runs, for `timeout` seconds at most."""
        self.stop()
        deadline = self.gateway.loop.time() + timeout
        while tasks := self._tasks():
            left = deadline - self.gateway.loop.time()
            if left <= 0:
                logger.warning(
                    "events were still in hand at the end; their leases run out", extra={"events": len(tasks)}
                )
                return
            await asyncio.wait(tasks, timeout=left)

    def is_running(self, event_id: str) -> bool:
        """Whether this gateway has it at a pod now."""
        return event_id in self._running

    def note_running(self, event_id: str, running: bool) -> None:
        if running:
            self._running.add(event_id)
        else:
            self._running.discard(event_id)

    def _function_changed(self, function: FunctionState) -> None:
        pump = self.pumps.get(Lane(Kind.INVOCATION, function.namespace, function.name))
        if pump is not None:
            pump.function_changed(function)

    def _function_gone(self, function: FunctionState) -> None:
        self._policies.pop(function, None)
        self.metrics.pop((function.namespace, function.name), None)

    # -- for pumps and handlings

    def pump(self, lane: Lane) -> Pump:
        """The lane's pump; one that has ended is made anew."""
        pump = self.pumps.get(lane)
        if pump is None or (pump.ended and not pump.in_hand):
            pump = self.pumps[lane] = Pump(self, lane)
            pump.task = self.gateway.loop.create_task(pump.run(), name=f"pump {lane}")
            pump.task.add_done_callback(lambda _: self._pump_ended(pump))
        return pump

    def policy(self, function: FunctionState | None) -> Policy:
        if function is None or function.function is None:
            return self._default_policy
        known = self._policies.get(function)
        if known is None or known[0] is not function.function:
            wanted = function.function.spec.async_
            policy = Policy(
                max_attempts=wanted.max_attempts,
                max_age=wanted.max_age_seconds,
                retry_delays=self._default_policy.retry_delays,
                first_backoff=self._default_policy.first_backoff,
                longest_backoff=self._default_policy.longest_backoff,
            )
            known = self._policies[function] = (function.function, policy)
        return known[1]

    def metrics_of(self, event: Event) -> EventMetrics:
        return self.metrics_of_lane(event.lane)

    def metrics_of_lane(self, lane: Lane) -> EventMetrics:
        key = (lane.namespace, lane.function)
        counted = self.metrics.get(key)
        if counted is None:
            counted = self.metrics[key] = EventMetrics()
        return counted

    def notify(self, lane: Lane, *, abandoned: bool = False) -> None:
        """The lane may have something to take."""
        if not self.stopping and self.serves(lane) and self.gateway.registry.synced.is_set():
            self.pump(lane).notify(abandoned=abandoned)

    def serves(self, lane: Lane) -> bool:
        """Whether it is this gateway's at all: others may share the queue."""
        namespaces = self.gateway.settings.namespaces
        return not namespaces or lane.namespace in namespaces

    def short_of_budget(self, pump: Pump) -> None:
        self._short[pump] = None

    def budget_freed(self) -> None:
        """The next in line may look whether it finds room now."""
        if self._short:
            pump = next(iter(self._short))
            del self._short[pump]
            pump.wake()

    # -- inside

    def _tasks(self) -> list[asyncio.Task[None]]:
        pumps = list(self.pumps.values())
        return [pump.task for pump in pumps if pump.task is not None] + [
            task for pump in pumps for task in pump.in_hand.values()
        ]

    def _pump_ended(self, pump: Pump) -> None:
        # what is in hand when the gateway stops is still found through its pump
        if not pump.in_hand and self.pumps.get(pump.lane) is pump:
            del self.pumps[pump.lane]
        self._short.pop(pump, None)
        pump.task = None

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.queue.lease_seconds / HEARTBEATS_PER_LEASE)
            leases = [handling.lease for pump in self.pumps.values() for handling in pump.in_hand]
            if not leases:
                continue
            try:
                await self.queue.extend(leases)
                self.outage.over()
            except QueueUnavailable as error:
                self.outage.seen(error)
            except Exception:
                logger.exception("a bug in the heartbeats of events")
