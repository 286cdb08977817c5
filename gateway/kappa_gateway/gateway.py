"""The gateway's parts, wired: one of each, all on one event loop. What serves requests is given this."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kappa_gateway.bodies import BodyMemory
from kappa_gateway.demand import DemandFeed
from kappa_gateway.dialer import Dialer
from kappa_gateway.dispatcher import Dispatcher
from kappa_gateway.metrics import FunctionMetrics, Metrics
from kappa_gateway.pools.service import Pools
from kappa_gateway.registry import Registry
from kappa_gateway.settings import Settings
from kappa_gateway.state import FunctionState, PodState
from kappa_gateway.upstream import Upstream

if TYPE_CHECKING:
    from kappa_gateway.events.service import Events

SWEEP_INTERVAL: Final = 0.1
"""Seconds between looks at deadlines: one sweep over what is in flight instead of a timer for each request."""


class Gateway:
    """Made on the running event loop. `run` keeps time; `close` ends what is left."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.draining = False
        """Set on SIGTERM: `/readyz` says 503 from then on."""
        self.upstream = Upstream(self.loop, idle_timeout=settings.upstream_idle_timeout)
        self.dispatcher = Dispatcher(
            self.loop.time,
            max_waiting_requests=settings.max_waiting_requests,
            max_wait=settings.max_wait,
            on_alarm=lambda when: self._alarm(when),
        )
        self.dialer = Dialer(self.dispatcher, self.upstream)
        self.registry = Registry(
            self.dispatcher,
            time.time,
            region=settings.region,
            account=settings.account,
            on_pod=self.dialer.dial,
            on_pod_gone=self._pod_gone,
            on_function=self._function,
            on_function_gone=self._function_gone,
        )
        self.metrics = Metrics(self.registry)
        self.demand = DemandFeed(settings.name, lambda: self.registry)
        self.dispatcher.on_waiting = self.demand.waits
        self.pools = Pools(self)
        self.registry.pools = self.pools
        self.metrics.collector.pool_pods = self.pools.vacancies.counts
        self.dispatcher.claim = self.pools.claim
        self.dialer.on_pool_pod = self.pools.never_arrived
        self.demand.claims = self.pools.told
        self.bodies = BodyMemory(settings.body_memory_bytes)
        self.events: Events | None = None
        """Asynchronous invocations; None where no queue is configured."""
        self.on_function_changed: list[Callable[[FunctionState], None]] = []
        self.on_function_gone: list[Callable[[FunctionState], None]] = []
        self.sweeps: list[Callable[[float], None]] = []
        """Called every `SWEEP_INTERVAL` with the loop's time."""

    @property
    def ready(self) -> bool:
        return self.registry.synced.is_set() and not self.draining

    async def run(self) -> None:
        """Deadlines and demand reports, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.demand.run(), name="demand")
            group.create_task(self._sweep(), name="sweep")

    async def close(self) -> None:
        self.demand.close()
        await self.pools.close()
        await self.dialer.close()
        self.upstream.close()

    def metrics_of(self, function: FunctionState) -> FunctionMetrics:
        counted = function.metrics
        if counted is None:
            counted = function.metrics = FunctionMetrics()
        return counted

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            self.dispatcher.expire()
            self.upstream.sweep()
            now = self.loop.time()
            for sweep in self.sweeps:
                sweep(now)

    def _alarm(self, when: float) -> None:
        self.loop.call_at(when, self.dispatcher.tick)

    def _pod_gone(self, pod: PodState) -> None:
        self.dialer.stop(pod)
        self.upstream.drop(pod)

    def _function(self, function: FunctionState) -> None:
        self.metrics_of(function)
        for told in self.on_function_changed:
            told(function)

    def _function_gone(self, function: FunctionState) -> None:
        for told in self.on_function_gone:
            told(function)
