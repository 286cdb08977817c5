"""The gateway's asynchronous side, composed: one of each part, for as long as the gateway lives."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from prometheus_client.registry import Collector

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.events.administration import Administration
from kappa_gateway.events.attempt import Attempts
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.capacity import Budget
from kappa_gateway.events.delivery import Deliverer, DeliveryRunner
from kappa_gateway.events.discovery import Discovery
from kappa_gateway.events.event_run import EventRunner
from kappa_gateway.events.holding import Holding, Run
from kappa_gateway.events.intake import Intake
from kappa_gateway.events.kept_answers import KeptAnswers
from kappa_gateway.events.lanes import Lanes
from kappa_gateway.events.metrics import EventCollector, EventCounts
from kappa_gateway.events.policies import Policies
from kappa_gateway.events.pump import Pump, PumpRules
from kappa_gateway.events.running import RunningEvents
from kappa_gateway.events.settlement import Settlement
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import EventLease, Queue
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

EXTENSIONS_PER_LEASE: Final = 3
DELIVERIES_AT_ONCE: Final = 32
"""Of all lanes together."""


class Events:
    """`intake` takes events at any time; `run` for as long as the gateway lives; `drain` before its end.

    `claimant(function)` names the other gateway that claims pool pods for the function, None where that is this one, or
    no gateway does. Without a pod that serves a function, this gateway leaves its events to that one, and wakes it with
    `notify_claimant`. `clock` gives seconds since the epoch, `monotonic` seconds of a monotonic clock.
    """

    def __init__(
        self,
        queue: Queue,
        deliverer: Deliverer,
        functions: Functions,
        invoker: Invoker,
        backlog: Backlog,
        settings: Settings,
        *,
        claimant: Callable[[FunctionState], Peer | None],
        notify_claimant: Callable[[Peer, FunctionState], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = queue
        self.counts = EventCounts()
        self.budget = Budget(settings.events_in_hand, max(settings.body_memory_bytes // 2, settings.event_max_bytes))
        self._availability = availability = QueueAvailability(monotonic)
        self._clock = clock
        self._policies = policies = Policies(settings)
        self._functions = functions

        def left_to(function: FunctionState) -> Peer | None:
            return None if function.serving else claimant(function)

        self.intake = Intake(
            queue,
            functions,
            backlog,
            self.counts,
            notify=self.notify,
            left_to=left_to,
            notify_peer=notify_claimant,
            clock=clock,
        )
        self.administration = Administration(queue, functions, accept=self.intake.accept, clock=clock)
        self._settlement = settlement = Settlement(
            queue,
            availability,
            self.counts,
            accept=self.intake.accept,
            result_max_bytes=settings.result_max_bytes,
            clock=clock,
        )
        self._running = RunningEvents(queue, availability, self.counts, clock)
        runner = EventRunner(
            queue,
            availability,
            functions,
            policies=policies,
            kept_answers=KeptAnswers(connect_timeout=settings.connect_timeout, answer_margin=settings.answer_margin),
            attempts=Attempts(
                invoker,
                max_response_bytes=settings.max_response_bytes,
                result_max_bytes=settings.result_max_bytes,
            ),
            settlement=settlement,
            running=self._running,
            clock=clock,
        )
        deliveries = DeliveryRunner(deliverer, settlement, self.counts, policies.deliveries, clock)

        def rules(budget: Budget, make_run: Callable[[Holding, EventLease], Run]) -> PumpRules:
            return PumpRules(
                queue,
                availability,
                functions,
                backlog,
                budget,
                make_run=make_run,
                put_aside=self._put_aside,
                left_to=left_to,
                clock=monotonic,
                first_brake=settings.event_first_backoff,
                typical_bytes=settings.event_max_bytes,
            )

        delivery_bytes = max(settings.body_memory_bytes // 8, settings.event_max_bytes)
        of_kind = {
            Kind.INVOCATION: rules(self.budget, runner.make),
            Kind.DELIVERY: rules(Budget(DELIVERIES_AT_ONCE, delivery_bytes), deliveries.make),
        }
        self.lanes = Lanes(functions, lambda lane: Pump(of_kind[lane.kind], lane), namespaces=settings.namespaces)
        self._discovery = Discovery(
            queue, availability, functions, self.lanes, backlog, self.counts, clock=clock, monotonic=monotonic
        )
        functions.subscribe(self)

    # -- its life

    async def run(self) -> None:
        """Until cancelled: then the leases of what is still held expire."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._discovery.run(), name="event lanes")
                group.create_task(self._extend_leases(), name="event leases")
        finally:
            self.stop()
            tasks = self.lanes.tasks()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Receive nothing more, and return what waits for a slot."""
        self.lanes.stop()

    async def drain(self, timeout: float) -> None:
        """After `stop`: let what runs end, for `timeout` seconds at most."""
        self.stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while tasks := self.lanes.tasks():
            left = deadline - loop.time()
            if left <= 0:
                logger.warning("events were still held at the end; their leases expire", extra={"events": len(tasks)})
                return
            await asyncio.wait(tasks, timeout=left)

    # -- for others

    def notify(self, lane: Lane) -> None:
        """The lane may have something to receive."""
        self.lanes.notify(lane)

    def is_running(self, event_id: str) -> bool:
        """Whether this gateway has it at a pod now."""
        return event_id in self._running

    def collector(self) -> Collector:
        """Of the metrics of events."""
        return EventCollector(self.counts.functions, available=lambda: self.queue.available, clock=self._clock)

    # -- a listener of `functions.Functions`

    def function_changed(self, function: FunctionState) -> None:
        self.lanes.function_changed(function)

    def function_gone(self, function: FunctionState) -> None:
        self.counts.discard(function.namespace, function.name)

    # -- inside

    async def _put_aside(self, run: Run, bug: Exception) -> float | None:
        lane = run.lease.event.lane
        policy = self._policies.of(self._functions.get(lane.namespace, lane.function))
        return await self._settlement.put_aside(run.lease, run.history, policy.max_age, bug)

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(self.queue.lease_seconds / EXTENSIONS_PER_LEASE)
            leases = self.lanes.leases()
            if not leases:
                continue
            try:
                await self.queue.extend(leases)
                self._availability.answered()
            except QueueUnavailable as error:
                self._availability.failed(error)
            except Exception:
                logger.exception("a bug in the extension of events' leases")
