"""The agent: which runtime process takes which invocation, and how it all ends.

Of `concurrency: N` the first runtime process starts at once and makes the pod ready; each of the others starts when an
invocation finds the ones before it busy, and stays. So an idle pod is as small as one with `concurrency: 1`; an
invocation that waits for a further process takes whichever process is free first.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import os
import sys
import time
from _collections import deque  # type: ignore[import-not-found]  # `collections` would be imported for it alone

from kappa_core import wire
from kappa_core.agent_config import AgentConfig, function_arn
from kappa_runtime import code, environment, errors, launch
from kappa_runtime.invocation import UNHANDLED, Answer, Invocation
from kappa_runtime.loop import EventLoop
from kappa_runtime.output import Output, own_stdout
from kappa_runtime.process import COMING, FETCH_LIMIT, INIT_LIMIT, RuntimeProcess, State
from kappa_runtime.readiness import Readiness
from kappa_runtime.runtime_api import RuntimeApiProtocol
from kappa_runtime.server import AgentProtocol
from kappa_runtime.transport import Server

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from kappa_runtime.drain import Drain
    from kappa_runtime.kept import KeptAnswers
    from kappa_runtime.waiting import Waiting

_OPENING: Final = b"verify=%.2f,code=%.2f,"
"""As `kappa_core.phases` names them."""
SIDECAR_MEMORY_MIB: Final = 256
"""The memory limit of the agent's own container beside an image's."""


class Code:
    """The function's code: in place, or an archive that has to be fetched first."""

    def __init__(self, config: AgentConfig, env: Mapping[str, str], zipped: bytes = b"") -> None:
        self.url = config.code_archive_url
        self.ready = not self.url or bool(zipped)
        self._config = config
        self._env = env
        self._zip = zipped
        """The archive itself, until it is unpacked."""

    def place(self) -> None:
        """Into the task root, unless it is mounted or was fetched. Raises `CodeUnreadable`."""
        config = self._config
        if config.code_inline:
            code.write_inline(config.code_inline, config.handler, config.task_root)
        elif self._zip:
            from kappa_runtime import archive

            archive.unpack_bytes(self._zip, config.task_root, config.code_archive_url)
            self._zip = b""

    def fetch(self) -> launch.Child:
        """Fetch and unpack it in a process of its own, whose memory and threads end with it."""
        variables = {**self._env, **self._config.to_env()}
        archive = sys.modules.get("kappa_runtime.archive")
        if archive is None:
            command = [sys.executable, "-P", "-m", "kappa_runtime.archive"]
            return launch.spawn(command, variables, "/", parent_death=self._config.parent_death)
        # a pool pod has loaded what that takes: 200 ms of an interpreter's start and imports
        return launch.run(archive.main, variables, "/", parent_death=self._config.parent_death)


class Agent:
    def __init__(
        self,
        config: AgentConfig,
        loop: EventLoop,
        env: Mapping[str, str],
        *,
        output: Output | None = None,
        zipped: bytes = b"",
        waiting: Waiting | None = None,
    ) -> None:
        """`env`: what the runtime process's variables are made from. The rest is of a pool pod: the output that it has
        already, the code that came with the first event, the runtime process that waits."""
        self.config = config
        self.loop = loop
        self.arn = function_arn(config).encode()
        self.code = Code(config, env, zipped)
        self.readiness = Readiness(loop)
        self.output = output or Output(loop, own_stdout(), self._pause_output)
        self.output.on_full = self._pause_output
        self.connections: set[AgentProtocol] = set()
        self.waiting: deque[Invocation] = deque()
        """Accepted, and no runtime process has them yet."""
        self.specialized: tuple[float, float] | None = None
        """Until the first answer of what was a pool pod: when the request was in, and when it was found good."""
        self.in_flight = 0
        """Accepted and not answered."""
        self.draining = False
        self._drain: Drain | None = None
        self._kept: KeptAnswers | None = None
        self._env = env
        self._ahead = waiting
        self._processes: list[RuntimeProcess] = []
        self._servers: list[Server] = []

    @property
    def kept(self) -> KeptAnswers:
        """Answers to events, from the first event on."""
        if self._kept is None:
            from kappa_runtime import kept

            memory_mib = SIDECAR_MEMORY_MIB if self.config.sidecar else self.config.memory_mib
            self._kept = kept.KeptAnswers(
                self.loop, kept.budget(memory_mib), changed=self.changed, log=self.output.line
            )
        return self._kept

    # invocations

    def refusal(self) -> str | None:
        """Why an invocation would not be taken now."""
        if self.draining:
            return wire.REFUSED_DRAINING
        if self.in_flight >= self.config.concurrency:
            return wire.REFUSED_BUSY
        if self.config.sidecar and self.readiness.state == wire.READY and self._processes[0].state is State.STARTING:
            # The other container has ended, and the kubelet may take minutes to start it again: another pod may be free.
            return wire.REFUSED_BUSY
        return None

    def submit(self, invocation: Invocation) -> None:
        """Run it; the caller has asked `refusal` before."""
        self.in_flight += 1
        for process in self._processes:
            if process.state is State.IDLE:
                process.dispatch(invocation)
                return
        bound = self.config.timeout + (INIT_LIMIT if self.code.ready else FETCH_LIMIT)
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
        self.changed()

    # what runtime processes tell

    def on_started(self, api_port: int) -> None:
        if self._ahead is not None and self._ahead.api_port == api_port:
            self._ahead.finish()
            self._ahead = None

    def never_knew(self, api_port: int) -> bool:
        """Of a process that has ended in its start: whether it was one that waited, and did not hear of the function."""
        return self._ahead is not None and self._ahead.api_port == api_port and self._ahead.never_knew()

    def on_idle(self, process: RuntimeProcess) -> None:
        if self.readiness.state != wire.READY:
            self.readiness.ready(process.init_ms)
        if self.waiting:
            invocation = self.waiting.popleft()
            if invocation.timer is not None:
                invocation.timer.cancel()
            process.dispatch(invocation)

    def on_init_failed(self, error: dict[str, object]) -> None:
        """A start failed: the invocation that waited longest gets to know why; the next one tries again."""
        self.output.line(f"kappa: {error['errorType']}: {error['errorMessage']}\n".encode(errors="backslashreplace"))
        if not any(process.state in (State.IDLE, State.BUSY, State.RETURNING) for process in self._processes):
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
            if process.state is State.STOPPED and not process.stopping:
                coming += 1
                process.start(within_invocation=again)
        # an archive is fetched once, by the first process
        while coming < len(self.waiting) and len(self._processes) < self.config.concurrency and self.code.ready:
            coming += 1
            self._add_process().start(within_invocation=again)

    # runtime processes

    def spawn(self, api_port: int) -> launch.Child:
        """Raises `errors.StartError`."""
        config = self.config
        try:
            self.code.place()
            variables = environment.variables(config, self._env, api_port)
            if self._ahead is not None and self._ahead.api_port == api_port:
                child = self._ahead.become(variables, config)
                if child is not None:
                    return child
            return launch.spawn(
                environment.command(config), variables, config.task_root, parent_death=config.parent_death
            )
        except code.CodeUnreadable as error:
            raise errors.StartError(code.UNREADABLE, str(error)) from None
        except environment.NoEntrypoint as error:
            raise errors.StartError(errors.INVALID_ENTRYPOINT, str(error)) from None
        except OSError as error:
            raise errors.StartError(errors.EXIT_ERROR, f"no process can be started: {error}") from None

    def _add_process(self, listening: tuple[int, int] | None = None) -> RuntimeProcess:
        if listening is None:
            first = self.config.runtime_api_port
            try:
                listening = launch.listen("127.0.0.1", first + len(self._processes) if first else 0)
            except OSError:
                # the function's own code may hold that port
                listening = launch.listen("127.0.0.1", 0)
        fd, port = listening
        process = self.new_process(port)
        limit = self.config.max_response_bytes
        self._servers.append(Server(self.loop, fd, lambda: RuntimeApiProtocol(process, limit)))
        return process

    def new_process(self, api_port: int) -> RuntimeProcess:
        process = RuntimeProcess(self, len(self._processes), api_port)
        self._processes.append(process)
        return process

    def _pause_output(self, paused: bool) -> None:
        for process in self._processes:
            process.pause_output(paused)

    def _reap(self) -> None:
        """Every child that has ended; as a container's first process also those that others left behind."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            process = next((one for one in self._processes if one.pid == ended.si_pid), None)
            if process is not None:
                # what is left of its group, while its id is not yet free for others
                process.kill()
            _, status = os.waitpid(ended.si_pid, 0)
            if process is not None:
                process.on_exit(status)
                self.changed()

    # the agent's own life

    def serve(self, start: launch.Start) -> None:
        """Until SIGTERM or SIGINT, then drain: the loop stops in the end."""
        self._heed_signals()
        process = self._add_process((start.api_fd, start.api_port))
        if start.child is not None:
            process.adopt(start.child)
        elif start.error is not None:
            process.refuse_start(errors.StartError(*start.error))
        else:
            process.start(within_invocation=False)
        # one that ended before the handler was there
        self._reap()
        limit = self.config.max_request_bytes
        self._servers.append(Server(self.loop, start.listen_fd, lambda: AgentProtocol(self, limit)))
        if launch.stop_requested:
            self.drain()

    def take_over(self, servers: list[Server], api_port: int) -> RuntimeProcess:
        """Serve with what a pool pod has already, see `specialize`; its first runtime process, which is to be started."""
        self._heed_signals()
        self._servers += servers
        return self.new_process(api_port)

    def _heed_signals(self) -> None:
        for number in (_signal.SIGTERM, _signal.SIGINT):
            self.loop.add_signal_handler(number, self.drain)
        self.loop.add_signal_handler(_signal.SIGCHLD, self._reap)

    def take_opening(self, started: float) -> bytes:
        """What of `wire.PHASES` came before a runtime process's start, for the first answer alone."""
        if self.specialized is None:
            return b""
        (began, verified), self.specialized = self.specialized, None
        return _OPENING % ((verified - began) * 1000, (started - verified) * 1000)

    def drain(self) -> None:
        """Take nothing new, let what runs end, then end the runtime processes and the loop."""
        self.draining = True
        self._draining().begin()

    def tell_when_drained(self, caller: AgentProtocol) -> None:
        """Answer once the agent was told to stop and nothing runs any more; it is not what stops it."""
        self._draining().tell(caller)

    def changed(self) -> None:
        """An invocation, a process, a connection or a kept answer has ended: what draining waits for may have come about."""
        if self._drain is not None:
            self._drain.look()

    def _draining(self) -> Drain:
        if self._drain is None:
            from kappa_runtime.drain import Drain

            self._drain = Drain(self)
        return self._drain

    # what draining does, see `drain`

    @property
    def running(self) -> bool:
        """A runtime process is there."""
        return any(process.pid for process in self._processes)

    def give_up_all(self) -> None:
        """Answer what still runs or waits: there is no more time."""
        message = f"the pod was stopped before the invocation ended: its drain timeout of {self.config.drain_timeout:g} s has passed"
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

    def unseen(self) -> int:
        """Events that no gateway has seen to. In local mode none is waited for: its one gateway did not die, or this
        agent would have."""
        return 0 if self._kept is None or self.config.parent_death else len(self._kept)

    def keep_shorter(self) -> None:
        if self._kept is not None:
            self._kept.drain()

    def close(self) -> None:
        """Take no more connections, and close those there are once what was written is sent."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()


def run(config: AgentConfig, start: launch.Start) -> int:
    """Serve until stopped; the exit status."""
    loop = EventLoop()
    Agent(config, loop, os.environ).serve(start)
    loop.run()
    return 0
