"""The agent: which runtime process takes which invocation, and how it all ends.

Of `concurrency: N` the first runtime process starts at once and makes the pod ready; each of the others starts when an
invocation finds the ones before it busy, and stays. So an idle pod is as small as one with `concurrency: 1`; an
invocation that waits for a further process takes whichever process is free first.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Final

import uvloop

from kappa_core import wire
from kappa_core.agent_config import AgentConfig, function_arn
from kappa_runtime import code, environment, errors, launch
from kappa_runtime.invocation import UNHANDLED, Answer, Invocation
from kappa_runtime.output import Output, Pipe, own_stdout
from kappa_runtime.process import COMING, FETCH_LIMIT, INIT_LIMIT, RuntimeProcess, State
from kappa_runtime.readiness import Readiness
from kappa_runtime.runtime_api import RuntimeApiProtocol
from kappa_runtime.server import AgentProtocol

LINGER: Final = 0.5
"""Seconds after SIGTERM in which the agent still answers `draining`, while a gateway is connected: a request that is on
its way gets an answer, not a broken connection."""
STOP_GRACE: Final = 2.0
"""Seconds between a runtime process's SIGTERM and its SIGKILL when the agent ends."""
FLUSH_GRACE: Final = 1.0
"""Seconds for the last answers and log lines."""


class Code:
    """The function's code: in place, or an archive that has to be fetched first."""

    def __init__(self, config: AgentConfig) -> None:
        self.url = config.code_archive_url
        self.ready = not self.url
        self._config = config

    def fetch(self) -> launch.Child:
        """Fetch and unpack it in a process of its own, whose memory and threads end with it."""
        return launch.spawn(
            [sys.executable, "-P", "-m", "kappa_runtime.archive"],
            dict(os.environ),
            "/",
            parent_death=self._config.parent_death,
        )


class Agent:
    def __init__(self, config: AgentConfig, loop: asyncio.AbstractEventLoop, env: Mapping[str, str]) -> None:
        self.config = config
        self.loop = loop
        self.arn = function_arn(config).encode()
        self.code = Code(config)
        self.readiness = Readiness(loop)
        self.output = Output(loop, own_stdout(), self._pause_output)
        self.connections: set[AgentProtocol] = set()
        self.waiting: deque[Invocation] = deque()
        """Accepted, and no runtime process has them yet."""
        self.in_flight = 0
        """Accepted and not answered."""
        self.draining = False
        self._env = env
        self._processes: list[RuntimeProcess] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self.changed = asyncio.Event()
        """Set when an invocation, a process or a connection has ended: for draining."""

    # invocations

    def refusal(self) -> str | None:
        """Why an invocation would not be taken now."""
        if self.draining:
            return wire.REFUSED_DRAINING
        if self.in_flight >= self.config.concurrency:
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
        self.changed.set()

    # what runtime processes tell

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
            if config.code_inline:
                code.write_inline(config.code_inline, config.handler, config.task_root)
            return launch.spawn(
                environment.command(config),
                environment.variables(config, self._env, api_port),
                config.task_root,
                parent_death=config.parent_death,
            )
        except code.CodeUnreadable as error:
            raise errors.StartError(code.UNREADABLE, str(error)) from None
        except environment.NoEntrypoint as error:
            raise errors.StartError(errors.INVALID_ENTRYPOINT, str(error)) from None
        except OSError as error:
            raise errors.StartError(errors.EXIT_ERROR, f"no process can be started: {error}") from None

    def open_pipe(self, fd: int) -> Pipe:
        return Pipe(self.loop, fd, self.output, whole_lines=self.config.concurrency > 1)

    def _add_process(self, listening: tuple[int, int] | None = None) -> RuntimeProcess:
        index = len(self._processes)
        if listening is None:
            first = self.config.runtime_api_port
            try:
                listening = launch.listen("127.0.0.1", first + index if first else 0)
            except OSError:
                # the function's own code may hold that port
                listening = launch.listen("127.0.0.1", 0)
        fd, port = listening
        process = RuntimeProcess(self, index, port)
        self._processes.append(process)
        self._own(self._serve_api(process, fd))
        return process

    async def _serve_api(self, process: RuntimeProcess, fd: int) -> None:
        limit = self.config.max_response_bytes
        self._servers.append(
            await self.loop.create_server(
                lambda: RuntimeApiProtocol(process, limit), sock=_socket_of(fd), backlog=launch.BACKLOG
            )
        )

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
                self.changed.set()

    # the agent's own life

    async def serve(self, start: launch.Start) -> int:
        """Until SIGTERM or SIGINT, then drain. The exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop.set)
        # uvloop keeps SIGCHLD from add_signal_handler; its wake-up descriptor still brings this one to the loop at once
        signal.signal(signal.SIGCHLD, lambda _number, _frame: self.loop.call_soon_threadsafe(self._reap))
        process = self._add_process((start.api_fd, start.api_port))
        if start.child is not None:
            process.adopt(start.child)
        elif start.error is not None:
            process.refuse_start(errors.StartError(*start.error))
        else:
            process.start(within_invocation=False)
        self._reap()
        self._servers.append(
            await self.loop.create_server(
                lambda: AgentProtocol(self, self.config.max_request_bytes),
                sock=_socket_of(start.listen_fd),
                backlog=launch.BACKLOG,
            )
        )
        if launch.stop_requested:
            self._stop.set()
        await self._stop.wait()
        await self._drain()
        return 0

    async def _drain(self) -> None:
        self.draining = True
        self.readiness.draining()
        began = self.loop.time()
        await self._until(lambda: not self.in_flight, began + self.config.drain_timeout)
        if self.in_flight:
            self._give_up_all()
        for process in self._processes:
            process.stop(signal.SIGTERM)
        for process in self._processes:
            # a handler that it has for the signal runs once its wait for work ends
            process.hang_up()
        await self._until(lambda: not self._running(), self.loop.time() + STOP_GRACE)
        for process in self._processes:
            process.stop(signal.SIGKILL)
        await self._until(lambda: not self.connections, began + LINGER)
        await self._close()

    async def _until(self, done: Callable[[], bool], deadline: float) -> None:
        """Wait for what `changed` may bring about, until the loop's time `deadline`."""
        while not done() and (left := deadline - self.loop.time()) > 0:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.changed.wait()

    def _give_up_all(self) -> None:
        message = f"the pod was stopped before the invocation ended: its drain timeout of {self.config.drain_timeout:g} s has passed"
        for process in self._processes:
            process.give_up(message)
        while self.waiting:
            self._fail_waiting(self.waiting.popleft(), errors.start_error(errors.POD_STOPPED, message))

    def _running(self) -> bool:
        return any(process.pid for process in self._processes)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()
        deadline = self.loop.time() + FLUSH_GRACE
        await self._until(lambda: not self.connections, deadline)
        self.output.flush()
        while self.output.pending and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
            self.output.flush()
        for task in list(self._tasks):
            task.cancel()


def _socket_of(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


def run(config: AgentConfig, start: launch.Start) -> int:
    """Serve until stopped; the exit status."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(Agent(config, loop, os.environ).serve(start))
    finally:
        loop.close()
