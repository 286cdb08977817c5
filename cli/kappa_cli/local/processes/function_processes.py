"""The processes of one function: as many as scaling decides, of the newest revision, replaced without a gap."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kappa_cli.local.console import Console
from kappa_cli.local.manifests.ready_status import with_ready
from kappa_cli.local.manifests.workload import Workload
from kappa_cli.local.processes import launch
from kappa_cli.local.processes.agent_process import AgentProcess, Ending, NewProcess
from kappa_cli.local.processes.pods import Pods
from kappa_cli.local.processes.readiness import Readiness
from kappa_core import pool
from kappa_core.demand import FunctionDemand
from kappa_core.function import Function
from kappa_core.reasons import Reason
from kappa_core.scaling import History, ScalingSpec, decide

logger = logging.getLogger(__name__)

STOP_MARGIN: Final = 3.0
"""Seconds on top of the function's timeout in which a stopping process must end; then it is killed."""
BACKOFF_FIRST: Final = 0.5
BACKOFF_MOST: Final = 30.0
"""Seconds before a process is started again after one that ended by itself."""
CRASHES_TO_FAIL: Final = 3
"""Crashes in a row after which requests are answered with the reason instead of waiting."""
STEADY: Final = 10.0
"""A process that lived for this many seconds ends a row of crashes."""
_DEMAND_VALID: Final = 3.0
"""Seconds for which a report says what a function needs, if no other one comes."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the processes of all functions share."""

    pods: Pods
    console: Console
    state: Path
    """Folder for the task roots."""
    region: str
    account: str
    keep_warm: float | None = None
    """Seconds, instead of every Function's own."""
    clock: Callable[[], float] = time.monotonic
    new_process: NewProcess = AgentProcess


@dataclass(frozen=True, slots=True)
class _Running:
    process: AgentProcess
    workload: Workload


class FunctionProcesses:
    """Call `apply` with each new revision, `demand` with each of the gateway's reports, `tick` each second, and `stop`
    at the end."""

    def __init__(self, label: str, function: Function, shared: Shared) -> None:
        self.label = label
        """How the terminal names it."""
        self._function = function
        self._shared = shared
        self._workload: Workload | None = None
        self._running: dict[str, _Running] = {}
        """By the process' name."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._history = History()
        self._demand: FunctionDemand | None = None
        self._demand_at = 0.0
        self._numbers = itertools.count(1)
        self._crashes = 0
        self._not_before = 0.0
        self._crashing = ""
        """Why requests are answered with an error: its processes crash. Empty while they do not."""
        self._stopping = False

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)"""
        return self._function.metadata.namespace, self._function.metadata.name

    @property
    def is_starting(self) -> bool:
        """Whether a process of it is starting."""
        return any(p.readiness is Readiness.STARTING and not p.stopping for p in self._processes())

    def apply(self, function: Function, workload: Workload | None) -> bool:
        """The Function's current manifest. `workload` None: it cannot run, and its Ready condition says why.

        True when running processes are being replaced.
        """
        before, self._function, self._workload = self._revision, function, workload
        if self._revision != before:
            self._crashes, self._not_before, self._crashing = 0, 0.0, ""
        self._publish()
        replacing = bool(self._running) and workload is not None and self._revision != before
        self._balance()
        return replacing

    def demand(self, demand: FunctionDemand | None) -> None:
        self._demand = demand
        self._demand_at = self._shared.clock()
        self._balance()

    def tick(self) -> None:
        if self._demand is not None and self._shared.clock() - self._demand_at > _DEMAND_VALID:
            self._demand = None
        self._balance()

    def adopt(self, process: AgentProcess, spec_hash: str, lines: Iterable[str]) -> None:
        """A spare process that the gateway has specialized for this spec; `lines` is what it wrote so far."""
        is_current = self._workload is not None and spec_hash == pool.spec_hash(self._function)
        process.give_function(self._write)
        for line in lines:
            self._write(line)
        self._keep(_Running(process, self._workload or Workload(self._function)))
        if self._stopping or not is_current:
            self._retire(process)
        # no _balance: the demand that comes with the claim is the one that this process serves

    async def stop(self) -> None:
        """Stop every process: each finishes its invocations, and ends."""
        self._stopping = True
        for process in self._processes():
            self._retire(process)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def kill(self) -> None:
        """End every process now."""
        self._stopping = True
        for process in self._processes():
            process.kill()

    # -- how many, and which

    @property
    def _revision(self) -> str:
        return self._workload.revision if self._workload is not None else ""

    def _processes(self) -> list[AgentProcess]:
        return [running.process for running in self._running.values()]

    def _balance(self) -> None:
        if self._stopping:
            return
        staying = [running for running in self._running.values() if not running.process.stopping]
        current = [one.process for one in staying if one.workload.revision == self._revision]
        old = [one.process for one in staying if one.workload.revision != self._revision]
        if self._workload is None:
            for process in old:
                self._retire(process)
            return
        wanted = self._wanted()
        if self._shared.clock() >= self._not_before:
            current.extend(self._launch(self._workload) for _ in range(wanted - len(current)))
        for process in self._idlest(current)[: max(0, len(current) - wanted)]:
            self._retire(process)
        # each process of an older revision stays until one of the new revision can answer instead
        settled = sum(process.readiness is not Readiness.STARTING for process in current)
        for process in self._idlest(old)[: max(0, len(old) - max(0, wanted - settled))]:
            self._retire(process)

    def _wanted(self) -> int:
        scaling = self._function.spec.scaling
        keep_warm = scaling.keep_warm_seconds if self._shared.keep_warm is None else self._shared.keep_warm
        spec = ScalingSpec(scaling.min_replicas, scaling.max_replicas, keep_warm, self._function.spec.concurrency)
        return decide(self._shared.clock(), self._demand, self._history, spec)

    def _idlest(self, processes: list[AgentProcess]) -> list[AgentProcess]:
        """Those with the fewest invocations first, and of those the youngest, so that the oldest stay."""
        outstanding = self._demand.pods if self._demand else {}
        return sorted(processes, key=lambda process: (outstanding.get(process.name, 0), -process.created_at))

    # -- one process

    def _launch(self, workload: Workload) -> AgentProcess:
        namespace, name = self.key
        process_name = f"fn-{name}-{next(self._numbers)}"
        process = self._shared.new_process(process_name, self._shared.state / namespace / process_name, self._write)
        running = _Running(process, workload)
        process.start(
            launch.for_function(workload, region=self._shared.region, account=self._shared.account),
            lambda: self._changed(running),
        )
        self._keep(running)
        return process

    def _keep(self, running: _Running) -> None:
        self._running[running.process.name] = running
        self._show(running)
        task = asyncio.create_task(self._follow(running), name=f"{self.label} {running.process.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, running: _Running) -> None:
        process = running.process
        ending = await process.ended()
        del self._running[process.name]
        self._shared.pods.remove(self.key[0], process)
        if not process.stopping:
            self._crashed(process, ending)
        self._balance()

    def _changed(self, running: _Running) -> None:
        """The process listens, or its readiness is known."""
        process = running.process
        if process.readiness is Readiness.READY and self._crashing and not process.stopping:
            self._crashing = ""
            self._publish()
        self._show(running)
        if process.readiness is not Readiness.STARTING:
            self._balance()

    def _retire(self, process: AgentProcess) -> None:
        """It gets no new invocations, finishes those that it has within the function's timeout, and ends."""
        if process.stopping:
            return
        running = self._running[process.name]
        process.terminate(within=running.workload.function.spec.timeout_seconds + STOP_MARGIN)
        self._show(running)

    def _crashed(self, process: AgentProcess, ending: Ending) -> None:
        self._crashes = 1 if ending.lived > STEADY else self._crashes + 1
        backoff = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(self._crashes - 1, 16))
        backoff *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        self._not_before = self._shared.clock() + backoff
        self._shared.console.say(
            f"{self.label}: the process {process.name} {ending.how}; "
            f"the next one starts after {backoff:.1f} s, when needed"
        )
        if self._crashes >= CRASHES_TO_FAIL and not self._crashing:
            self._crashing = f"its process {ending.how}, {self._crashes} times in a row; its log above says more"
            self._publish()
        asyncio.get_running_loop().call_later(backoff, self._balance)

    # -- what the gateway and the terminal see

    def _publish(self) -> None:
        function = self._function
        if self._crashing:
            function = with_ready(function, Reason.CRASHING, self._crashing)
        self._shared.pods.put_function(function)

    def _show(self, running: _Running) -> None:
        self._shared.pods.put(running.workload.function, running.process)

    def _write(self, line: str) -> None:
        self._shared.console.line(self.label, line)
