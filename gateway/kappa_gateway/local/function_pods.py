"""The processes of one function: as many as scaling decides, of the newest revision, replaced without a gap."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kappa_core import pool
from kappa_core.demand import FunctionDemand
from kappa_core.function import Function
from kappa_core.reasons import Reason
from kappa_core.scaling import History, ScalingSpec, decide
from kappa_gateway.backend import Pod, Sink
from kappa_gateway.local.console import Console
from kappa_gateway.local.process import STOP_MARGIN, AgentProcess, Readiness, agent_config
from kappa_gateway.local.resolve import Workload
from kappa_gateway.local.status import with_ready

log = logging.getLogger(__name__)

BACKOFF_FIRST: Final = 0.5
BACKOFF_MOST: Final = 30.0
CRASHES_TO_FAIL: Final = 3
"""Agents that ended by themselves one after another before requests are told so instead of waiting on."""
STEADY: Final = 10.0
"""Seconds after which an agent's end is no longer counted with the ones before it."""
_DEMAND_VALID: Final = 3.0
"""Seconds that a pushed report stands for what a function needs, if no other one comes."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all functions share."""

    sink: Sink
    console: Console
    state: Path
    """Folder for the processes' task roots."""
    region: str
    account: str
    keep_warm: float | None = None
    """Seconds, instead of every Function's own."""
    clock: Callable[[], float] = time.monotonic


class FunctionPods:
    """Call `apply` with each new revision, `demand` with what the gateway says, `tick` each second, `stop` in the end."""

    def __init__(self, label: str, function: Function, around: Surroundings) -> None:
        self.label = label
        """How the terminal names it."""
        self.function = function
        self._around = around
        self._workload: Workload | None = None
        self._revision = ""
        self._pods: dict[str, AgentProcess] = {}
        self._created: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._history = History()
        self._demand: FunctionDemand | None = None
        self._demand_at = 0.0
        self._numbers = itertools.count(1)
        self._crashes = 0
        self._not_before = 0.0
        self._crashing = ""
        self._stopping = False

    def apply(self, function: Function, workload: Workload | None) -> bool:
        """The Function as it now is; `workload` None: it cannot run, and its Ready condition says why.

        True when running processes are being replaced.
        """
        self.function = function
        revision = workload.revision if workload else ""
        replacing = bool(self._pods) and bool(revision) and revision != self._revision
        if revision != self._revision:
            self._crashes, self._not_before, self._crashing = 0, 0.0, ""
        self._workload, self._revision = workload, revision
        self._publish()
        self._balance()
        return replacing

    def demand(self, demand: FunctionDemand | None) -> None:
        self._demand = demand
        self._demand_at = self._around.clock()
        self._balance()

    def tick(self) -> None:
        if self._demand is not None and self._around.clock() - self._demand_at > _DEMAND_VALID:
            self._demand = None
        self._balance()

    @property
    def is_starting(self) -> bool:
        """Whether a process of it is on its way."""
        return any(p.readiness is Readiness.STARTING and not p.stopping for p in self._pods.values())

    def is_of(self, namespace: str, name: str) -> bool:
        return (self.function.metadata.namespace, self.function.metadata.name) == (namespace, name)

    def adopt(self, process: AgentProcess, spec_hash: str, task: asyncio.Task[None]) -> None:
        """A spare process that the gateway made this function's; `task` runs until it has ended, and then calls `ended`."""
        is_current = self._workload is not None and spec_hash == pool.spec_hash(self.function)
        process.workload = self._workload or Workload(self.function)
        process.readiness = Readiness.READY
        process.on_line = lambda line: self._around.console.line(self.label, line)
        self._pods[process.name] = process
        self._created[process.name] = process.started_at or time.time()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._show(process)
        if self._stopping or not is_current:
            self._retire(process)
        # no look at how many there are: the demand that comes with the claim is what this one is there for

    def ended(self, process: AgentProcess, how: str, lived: float) -> None:
        """A process of this function has ended, `lived` seconds after its start."""
        self._pods.pop(process.name, None)
        self._created.pop(process.name, None)
        self._around.sink.remove_pod(self.function.metadata.namespace, process.name)
        if not process.stopping:
            self._crashed(process, how, lived)
        self._balance()

    async def stop(self) -> None:
        """Stop every process: each finishes what it has, and ends."""
        self._stopping = True
        for process in list(self._pods.values()):
            self._retire(process)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def kill(self) -> None:
        """End every process now."""
        self._stopping = True
        for process in self._pods.values():
            process.stopping = True
            process.kill()

    # -- how many, and which

    def _balance(self) -> None:
        if self._stopping:
            return
        current = [p for p in self._pods.values() if not p.stopping and _revision(p) == self._revision]
        old = [p for p in self._pods.values() if not p.stopping and _revision(p) != self._revision]
        if self._workload is None:
            for process in old:
                self._retire(process)
            return
        wanted = self._wanted()
        if self._around.clock() >= self._not_before:
            current.extend(self._launch(self._workload) for _ in range(wanted - len(current)))
        for process in self._idlest(current)[: max(0, len(current) - wanted)]:
            self._retire(process)
        # each process of an older revision stays until a new one can answer in its place
        settled = sum(p.readiness is not Readiness.STARTING for p in current)
        for process in self._idlest(old)[: max(0, len(old) - max(0, wanted - settled))]:
            self._retire(process)

    def _wanted(self) -> int:
        scaling = self.function.spec.scaling
        keep_warm = scaling.keep_warm_seconds if self._around.keep_warm is None else self._around.keep_warm
        spec = ScalingSpec(scaling.min_replicas, scaling.max_replicas, keep_warm, self.function.spec.concurrency)
        return decide(self._around.clock(), self._demand, self._history, spec)

    def _idlest(self, processes: list[AgentProcess]) -> list[AgentProcess]:
        """Those with the least to do first, and of those the youngest: the oldest stay, as a steady set."""
        outstanding = self._demand.pods if self._demand else {}
        return sorted(processes, key=lambda p: (outstanding.get(p.name, 0), -self._created[p.name]))

    # -- one process

    def _launch(self, workload: Workload) -> AgentProcess:
        metadata = workload.function.metadata
        name = f"fn-{metadata.name}-{next(self._numbers)}"
        folder = self._around.state / metadata.namespace / name
        process = AgentProcess(name, workload, folder, lambda line: self._around.console.line(self.label, line))
        self._pods[name] = process
        self._created[name] = time.time()
        self._show(process)
        task = asyncio.create_task(self._live(process), name=f"{self.label} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return process

    async def _live(self, process: AgentProcess) -> None:
        """A process from its start to its end."""
        started = self._around.clock()
        assert process.workload is not None, "launched for a workload"
        config = agent_config(process.workload, region=self._around.region, account=self._around.account)
        ready: asyncio.Task[None] | None = None
        try:
            await process.spawn(config)
            pump = asyncio.create_task(process.pump())
            if await process.listening() is None:
                process.kill()
            else:
                self._show(process)
                ready = asyncio.create_task(self._await_ready(process))
            how = ending(await pump, listened=process.port is not None)
        except (OSError, ValueError) as error:  # ValueError: a variable that no process can be given
            how = f"could not be started: {error}"
        finally:
            if ready is not None:
                ready.cancel()
        self.ended(process, how, self._around.clock() - started)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a bug in local mode", exc_info=task.exception(), extra={"function": self.label})

    async def _await_ready(self, process: AgentProcess) -> None:
        try:
            await process.wait_ready()
        except OSError:
            return  # it is ending; `_live` sees that
        if process.stopping:
            return
        if process.readiness is Readiness.READY and self._crashing:
            self._crashing = ""
            self._publish()
        self._show(process)
        self._balance()

    def _retire(self, process: AgentProcess) -> None:
        """No new work for it; it finishes what it has, within the function's timeout, and ends."""
        if process.stopping:
            return
        process.terminate()
        self._show(process)
        limit = (process.workload or Workload(self.function)).function.spec.timeout_seconds + STOP_MARGIN
        asyncio.get_running_loop().call_later(limit, process.kill)

    def _crashed(self, process: AgentProcess, reason: str, lived: float) -> None:
        self._crashes = 1 if lived > STEADY else self._crashes + 1
        backoff = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(self._crashes - 1, 16))
        backoff *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        self._not_before = self._around.clock() + backoff
        self._around.console.say(
            f"{self.label}: the process {process.name} {reason}; another one starts when needed, after {backoff:.1f} s"
        )
        if self._crashes >= CRASHES_TO_FAIL and not self._crashing:
            self._crashing = f"its process {reason}, {self._crashes} times one after another; its log above says more"
            self._publish()
        asyncio.get_running_loop().call_later(backoff, self._balance)

    # -- what the gateway is told

    def _publish(self) -> None:
        function = self.function
        if self._crashing:
            function = with_ready(function, Reason.CRASHING, self._crashing)
        self._around.sink.put_function(function)

    def _show(self, process: AgentProcess) -> None:
        spec = (process.workload or Workload(self.function)).function.spec
        created = self._created[process.name]
        pod = Pod(
            namespace=self.function.metadata.namespace,
            name=process.name,
            function=self.function.metadata.name,
            host="127.0.0.1" if process.port else None,
            port=process.port or 0,
            concurrency=spec.concurrency,
            protocol="lambda",
            ready=process.readiness is Readiness.READY,
            terminating=process.stopping,
            created_at=created,
            phases={"created": created, "scheduled": created}
            | ({"started": process.started_at} if process.started_at else {}),
        )
        self._around.sink.put_pod(pod)


def _revision(process: AgentProcess) -> str:
    return process.workload.revision if process.workload is not None else ""


def ending(code: int, *, listened: bool) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended by itself with exit status {code}"
    return how if listened else f"{how} before it could take a request"
