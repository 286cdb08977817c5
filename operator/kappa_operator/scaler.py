"""Replicas: the one writer of `/scale`.

A report of waiting requests leads to the PATCH at once, on the event loop's next turn, without the work queue: that
time counts in every cold start. Everything else is evaluated once a second.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from kappa_core import names, scaling
from kappa_core.demand import DemandReport, FunctionDemand, merge
from kappa_core.observed import PodFacts

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
GONE_SECONDS: Final = 3.0
"""A gateway that is lost may be back in this time, with the same requests in flight."""
RETRY_SECONDS: Final = (0.05, 0.2, 1.0, 3.0, 10.0)


class ScaleApi(Protocol):
    async def scale(self, key: str, replicas: int) -> int | None:
        """Set the replicas of a Function's Deployment; its new resourceVersion, None if there is no such Deployment."""

    async def set_deletion_cost(self, pod: PodFacts, cost: int) -> None:
        """Set a pod's deletion cost: the pods with the lowest are deleted first."""


@dataclass(slots=True)
class _State:
    spec: scaling.ScalingSpec
    replicas: int
    """As last seen or last set."""
    seen_version: int
    history: scaling.History = field(default_factory=scaling.History)
    decided: int = 0
    """The last decision that was made with a gateway connected."""
    held: bool = False
    """One pod is wanted to try the pod template."""
    patching: asyncio.Task[None] | None = None
    failures: int = 0


class Scaler:
    def __init__(
        self,
        api: ScaleApi,
        pods: Callable[[str], Iterable[PodFacts]],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        observe: Callable[[str, float], None] = lambda direction, seconds: None,
    ) -> None:
        self._api = api
        self._pods = pods
        self._clock = clock
        self._sleep = sleep
        self._observe = observe
        self._functions: dict[str, _State] = {}
        self._demand: dict[str, dict[str, FunctionDemand]] = {}
        """Gateway → Function key → its demand there."""
        self._connected: set[str] = set()
        self._gone: dict[str, float] = {}
        """Gateway that was lost → when."""
        self._tasks: set[asyncio.Task[None]] = set()

    # Called by the reconciler

    def update(self, key: str, spec: scaling.ScalingSpec, replicas: int, resource_version: int) -> None:
        """A Function and its Deployment as they are now; evaluated at once."""
        state = self._functions.get(key)
        if state is None:
            state = self._functions[key] = _State(spec=spec, replicas=replicas, seen_version=resource_version)
            # After a restart it is unknown since when these pods were needed: so they are needed now.
            state.history.add(self._clock(), min(replicas, spec.max_replicas))
            state.decided = min(replicas, spec.max_replicas)
        elif resource_version > state.seen_version or spec != state.spec:
            if resource_version > state.seen_version:
                state.replicas, state.seen_version = replicas, resource_version
            state.spec = spec
        self._evaluate(key, state)

    def forget(self, key: str) -> None:
        state = self._functions.pop(key, None)
        if state is not None and state.patching is not None:
            state.patching.cancel()

    def hold(self, key: str) -> None:
        """Keep one pod of the Function, whatever the demand, until `release`."""
        state = self._functions.get(key)
        if state is not None:
            state.held = True
            self._evaluate(key, state)

    def release(self, key: str) -> None:
        state = self._functions.get(key)
        if state is not None and state.held:
            state.held = False
            self._evaluate(key, state)

    def taken_over(self, key: str, pods: int) -> None:
        """The Function has `pods` pods, with those that gateways claimed.

        They are needed, and its ReplicaSet adopts them only when it wants as many.
        """
        state = self._functions.get(key)
        if state is not None:
            pods = min(pods, state.spec.max_replicas)
            state.history.add(self._clock(), pods)
            state.decided = max(state.decided, pods)
            self._evaluate(key, state)

    def wanted(self, key: str, default: int) -> int:
        """Replicas to create a Deployment with, so that one that was deleted by hand comes back as it was."""
        state = self._functions.get(key)
        return default if state is None else self._wanted(key, state)

    # Called with the gateways' reports

    def connected(self, gateway: str) -> None:
        """The gateway has sent a full report: pods that it does not need may be removed."""
        self._connected.add(gateway)
        self._gone.pop(gateway, None)

    def disconnected(self, gateway: str) -> None:
        """A gateway is lost. Its demand counts for `GONE_SECONDS` more; with no gateway left no pod is removed."""
        self._connected.discard(gateway)
        self._gone[gateway] = self._clock()

    def report(self, gateway: str, report: DemandReport) -> None:
        """Take a gateway's report and act on it at once. A Function missing in a full report has no demand there."""
        known = self._demand.setdefault(gateway, {})
        reported = {names.function_key(demand.namespace, demand.name): demand for demand in report.functions}
        silent = [key for key in known if key not in reported] if report.full else []
        for key in silent:
            del known[key]
        known.update(reported)
        for key in (*reported, *silent):
            self._evaluate_known(key)

    async def run(self) -> None:
        """Evaluate every function once a second, until cancelled: this removes pods that are no longer needed."""
        try:
            while True:
                await self._sleep(TICK_SECONDS)
                self.tick()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def tick(self) -> None:
        for gateway in [gateway for gateway, since in self._gone.items() if since + GONE_SECONDS <= self._clock()]:
            del self._gone[gateway]
            self._demand.pop(gateway, None)
        for key, state in list(self._functions.items()):
            if state.replicas or state.spec.min_replicas:
                self._evaluate(key, state)

    def _evaluate_known(self, key: str) -> None:
        state = self._functions.get(key)
        if state is not None:
            self._evaluate(key, state)

    # The decision

    def _wanted(self, key: str, state: _State) -> int:
        demands = [demands[key] for demands in self._demand.values() if key in demands]
        demand = merge(demands) if demands else None
        if self._connected:
            state.decided = scaling.decide(self._clock(), demand, state.history, state.spec)
        elif demand is not None:
            state.decided = max(state.decided, scaling.needed(demand, state.spec))
        wanted = max(min(state.decided, state.spec.max_replicas), state.spec.min_replicas)
        return max(wanted, 1) if state.held and state.spec.max_replicas else wanted

    def _evaluate(self, key: str, state: _State) -> None:
        wanted = self._wanted(key, state)
        if wanted != state.replicas and state.patching is None:
            task = asyncio.get_running_loop().create_task(self._patch(key, state, self._clock()), name=f"scale {key}")
            state.patching = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _patch(self, key: str, state: _State, since: float) -> None:
        try:
            while (wanted := self._wanted(key, state)) != state.replicas:
                try:
                    if 0 < wanted < state.replicas:
                        await self._spare_busy_pods(key, state)
                    before = state.replicas
                    version = await self._api.scale(key, wanted)
                except Exception as error:
                    delay = RETRY_SECONDS[min(state.failures, len(RETRY_SECONDS) - 1)]
                    state.failures += 1
                    logger.warning(
                        "cannot scale, will try again",
                        extra={"function": key, "replicas": wanted, "error": str(error), "retry_in": delay},
                    )
                    await self._sleep(delay)
                    continue
                state.failures = 0
                if version is None:
                    # No such Deployment: the reconciler makes it, and comes back here with `update`.
                    state.seen_version = 0
                    return
                state.replicas, state.seen_version = wanted, max(version, state.seen_version)
                self._observe("up" if wanted > before else "down", self._clock() - since)
                since = self._clock()
                logger.info("scaled", extra={"function": key, "from": before, "to": wanted})
        finally:
            state.patching = None

    async def _spare_busy_pods(self, key: str, state: _State) -> None:
        """Before pods are removed: a higher deletion cost for the busy ones. Best effort: draining loses nothing."""
        busy: dict[str, int] = {}
        for demands in self._demand.values():
            for pod, count in demands[key].pods.items() if key in demands else ():
                busy[pod] = busy.get(pod, 0) + count
        changes = [
            (pod, busy.get(pod.name, 0))
            for pod in self._pods(key)
            if not pod.terminating and pod.deletion_cost != busy.get(pod.name, 0)
        ]
        results = await asyncio.gather(
            *(self._api.set_deletion_cost(pod, cost) for pod, cost in changes), return_exceptions=True
        )
        for result in results:
            if isinstance(result, Exception):
                logger.info("cannot mark a pod's deletion cost", extra={"function": key, "error": str(result)})
