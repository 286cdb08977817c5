"""The agent: which runtime process takes which invocation.

Of `concurrency: N` the first runtime process starts at once and makes the pod ready. Each of the others starts when an
invocation finds the ones before it busy, and stays. So an idle pod is as small as one with `concurrency: 1`; an
invocation that waits for a further process takes whichever process is free first.
"""

from __future__ import annotations

import time

from kappa_core import wire
from kappa_core.agent_config import AgentConfig, function_arn
from kappa_runtime import platform
from kappa_runtime.agent.readiness import Readiness
from kappa_runtime.imports import deque
from kappa_runtime.io.loop import EventLoop
from kappa_runtime.io.output import Output
from kappa_runtime.start.child import Starter
from kappa_runtime.start.code import FunctionCode
from kappa_runtime.start.sockets import listen
from kappa_runtime.worker import errors
from kappa_runtime.worker.invocation import UNHANDLED, Answer, Invocation
from kappa_runtime.worker.journal import Journal
from kappa_runtime.worker.own import FETCH_LIMIT, INIT_LIMIT, OwnProcess
from kappa_runtime.worker.process import Control, RuntimeProcess
from kappa_runtime.worker.runtime_api import RuntimeApi
from kappa_runtime.worker.sidecar import SidecarProcess
from kappa_runtime.worker.states import COMING, UP, State

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

OPENING: Final = b"verify=%.2f,code=%.2f,"
"""As `kappa_core.phases` names them."""


class Agent:
    def __init__(
        self,
        config: AgentConfig,
        loop: EventLoop,
        output: Output,
        readiness: Readiness,
        code: FunctionCode,
        starter: Starter,
        api: RuntimeApi,
        changed: Callable[[], None],
        specialized: tuple[float, float] | None = None,
    ) -> None:
        """`api`: of the first runtime process. `changed` is called when an invocation or a process has ended.
        `specialized`: of a pool pod, when the request was in, and when it was found good, by `time.perf_counter`."""
        self.config = config
        self.loop = loop
        self.arn = function_arn(config).encode()
        self.readiness = readiness
        self.output = output
        self.waiting: deque[Invocation] = deque()
        """Accepted, and no runtime process has them yet."""
        self.in_flight = 0
        """Accepted and not answered."""
        self.draining = False
        self._code = code
        self._starter = starter
        self._specialized = specialized
        """Until the first answer."""
        self._changed = changed
        self._apis = [api]
        self._processes = [self._new_process(api)]

    # invocations

    def refusal(self) -> str | None:
        """Why an invocation would not be taken now."""
        if self.draining:
            return wire.REFUSED_DRAINING
        if self.in_flight >= self.config.concurrency:
            return wire.REFUSED_BUSY
        if self.config.sidecar and self.readiness.state == wire.READY and self._processes[0].state is State.STARTING:
            # the other container has ended, and the kubelet may take minutes to start it again: another pod may be free
            return wire.REFUSED_BUSY
        return None

    def submit(self, invocation: Invocation) -> None:
        """Run it; the caller has asked `refusal` before."""
        self.in_flight += 1
        for process in self._processes:
            if process.state is State.IDLE:
                process.dispatch(invocation)
                return
        bound = self.config.timeout + (INIT_LIMIT if self._code.ready else FETCH_LIMIT)
        if invocation.deadline_ms:
            bound = max(0.0, min(bound, invocation.deadline_ms / 1000 - time.time()))
        invocation.limit = bound
        invocation.timer = self.loop.call_later(bound, self._give_up_waiting, invocation)
        self.waiting.append(invocation)
        self._start_more()

    def finish(self, invocation: Invocation, answer: Answer) -> None:
        """It has ended; its slot is free."""
        self.in_flight -= 1
        if invocation.timer is not None:
            invocation.timer.cancel()
        invocation.caller.answer(invocation, answer)
        self._changed()

    # what runtime processes say (as `process.Dispatcher`)

    @property
    def wanted(self) -> bool:
        return bool(self.waiting)

    def on_idle(self, process: RuntimeProcess) -> None:
        if self.readiness.state != wire.READY:
            self.readiness.ready(process.init_ms)
        if self.waiting:
            invocation = self.waiting.popleft()
            if invocation.timer is not None:
                invocation.timer.cancel()
            process.dispatch(invocation)

    def on_init_failed(self, error: dict[str, object]) -> None:
        """A start failed: the invocation that waited longest is answered with the reason; the next one tries again."""
        self.output.line(f"kappa: {error['errorType']}: {error['errorMessage']}\n".encode(errors="backslashreplace"))
        if not any(process.state in UP for process in self._processes):
            self.readiness.failed(error)
        if self.waiting:
            self._fail_waiting(self.waiting.popleft(), error)
            self.loop.call_soon(self._start_more)

    def on_stopped(self) -> None:
        self._start_more()

    def _fail_waiting(self, invocation: Invocation, error: dict[str, object]) -> None:
        body = errors.for_invocation(error, invocation.request_id, time.time())
        self.finish(invocation, Answer(body, error=UNHANDLED))

    def _give_up_waiting(self, invocation: Invocation) -> None:
        self.waiting.remove(invocation)
        self._fail_waiting(invocation, errors.start_timed_out(invocation.limit, within_invocation=True))

    def _start_more(self) -> None:
        """As many starts under way as there are invocations that wait for one."""
        if self.draining and not self.waiting:
            return
        coming = sum(process.state in COMING for process in self._processes)
        again = self.readiness.init_error is not None
        for process in self._processes:
            if coming >= len(self.waiting):
                return
            if process.state is State.STOPPED:
                coming += 1
                process.start(within_invocation=again)
        # an archive is fetched once, by the first process
        while coming < len(self.waiting) and len(self._processes) < self.config.concurrency and self._code.ready:
            coming += 1
            process = self._add_process()
            process.start(within_invocation=again)

    # runtime processes

    def start(self) -> None:
        """Start the first runtime process."""
        self._processes[0].start(within_invocation=False)

    def _add_process(self) -> RuntimeProcess:
        first = self.config.runtime_api_port
        try:
            fd, port = listen("127.0.0.1", first + len(self._processes) if first else 0)
        except OSError:
            # the function's own code may hold that port
            fd, port = listen("127.0.0.1", 0)
        api = RuntimeApi(self.loop, fd, port)
        process = self._new_process(api)
        self._apis.append(api)
        self._processes.append(process)
        return process

    def _new_process(self, api: RuntimeApi) -> RuntimeProcess:
        config = self.config
        control: Control
        if config.sidecar:
            control = SidecarProcess(api.port)
        else:
            control = OwnProcess(config, self._code, self._starter, api.port)
        journal = Journal(self.loop, self.output, memory_mib=config.memory_mib, whole_lines=config.concurrency > 1)
        return RuntimeProcess(config, self.loop, control, api, journal, self)

    def reap(self) -> None:
        """Every child that has ended; as a container's first process also those that others left behind."""
        for pid, status in platform.reap(self._kill_rest):
            process = self._process(pid)
            if process is not None:
                process.on_exit(status)
                self._changed()

    def _kill_rest(self, pid: int) -> None:
        """What is left of the group of a runtime process that has ended."""
        process = self._process(pid)
        if process is not None:
            process.kill()

    def _process(self, pid: int) -> RuntimeProcess | None:
        return next((process for process in self._processes if process.pid == pid), None)

    def take_opening(self, started: float) -> bytes:
        """What of `wire.PHASES` came before a runtime process's start, for the first answer alone."""
        if self._specialized is None:
            return b""
        (began, verified), self._specialized = self._specialized, None
        return OPENING % ((verified - began) * 1000, (started - verified) * 1000)

    # what `drain` does

    def refuse_more(self) -> None:
        """The agent stops: take nothing new."""
        self.draining = True
        self.readiness.draining()

    @property
    def running(self) -> bool:
        """A runtime process of the agent's own still exists."""
        return any(process.pid for process in self._processes)

    def give_up_all(self) -> None:
        """Answer what still runs or waits: there is no more time."""
        timeout = f"its drain timeout of {self.config.drain_timeout:g} s has passed"
        message = f"the pod was stopped before the invocation ended: {timeout}"
        for process in self._processes:
            process.give_up(message)
        while self.waiting:
            self._fail_waiting(self.waiting.popleft(), errors.start_error(errors.POD_STOPPED, message))

    def stop_processes(self, number: int) -> None:
        """Send each a signal, and start none any more."""
        for process in self._processes:
            process.stop(number)

    def hang_up(self) -> None:
        for process in self._processes:
            process.hang_up()

    def close(self) -> None:
        """Accept no more connections to the Runtime APIs."""
        for api in self._apis:
            api.close()
