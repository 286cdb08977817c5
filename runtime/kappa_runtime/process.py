"""One runtime process: its states, its invocation, its timeout, its output.

    STOPPED ──start──► STARTING ──next──► IDLE ──dispatch──► BUSY ──answer──► RETURNING ──next──► IDLE
                          │ init failed                        │ timeout, exit
                          └──────────► ENDING ◄────────────────┘
                                         │ its exit was seen
                                         └──► STOPPED (and STARTING again, if it was busy)

RETURNING has answered and not yet asked for more. A process whose start failed is started again by the next invocation
only, so broken code burns no CPU.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import os
import time

from kappa_runtime import errors, logs, sidecar
from kappa_runtime.code import UNREADABLE
from kappa_runtime.invocation import UNHANDLED, Answer, Invocation
from kappa_runtime.journal import Journal
from kappa_runtime.launch import Child

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from typing import Final

    from kappa_runtime.agent import Agent
    from kappa_runtime.loop import TimerHandle
    from kappa_runtime.runtime_api import RuntimeApiProtocol

SIDECAR_LOOK: Final = 1.0
"""Seconds between looks for the other container's process, which the kubelet starts after the agent."""
INIT_LIMIT: Final = 10.0
"""Seconds a start may take, as on Lambda; one that takes longer is done again within the next invocation's timeout."""
FETCH_LIMIT: Final = 120.0
"""Seconds that fetching and unpacking an archive may take."""
EXIT_GRACE: Final = 1.0
"""Seconds that a process may take to exit after it said that its start failed."""


class State:
    """Plain strings: `enum` would cost every cold start milliseconds."""

    STOPPED = "stopped"
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    RETURNING = "returning"
    ENDING = "ending"


COMING: Final = frozenset((State.STARTING, State.RETURNING, State.ENDING))
"""States from which a process comes to take an invocation by itself, or fails one."""


class RuntimeProcess:
    def __init__(self, agent: Agent, index: int, api_port: int) -> None:
        self.index = index
        self.api_port = api_port
        self.state = State.STOPPED
        self.pid = 0
        self.connections: set[RuntimeApiProtocol] = set()
        self.init_ms = 0.0
        """Of its last start that was completed."""
        self.stopping = False
        """The agent ends: nothing is started any more."""
        self._agent = agent
        self._config = agent.config
        self._loop = agent.loop
        self._journal = Journal(
            agent.loop, agent.output, memory_mib=agent.config.memory_mib, whole_lines=agent.config.concurrency > 1
        )
        self._next: RuntimeApiProtocol | None = None
        self._invocation: Invocation | None = None
        self._timer: TimerHandle | None = None
        self._started = 0.0
        self._fetching = False
        self._within_invocation = False
        self._restart = False
        self._was_idle = False
        """It was IDLE when its connection broke."""
        self._seen = 0.0
        """When the other container's process was seen first, as `time.perf_counter`; 0.0: it was not."""
        self._init_unreported: float | None = None

    # starting

    def start(self, *, within_invocation: bool) -> None:
        """Start it. Within an invocation the function's own timeout bounds the start, otherwise `INIT_LIMIT`."""
        self.state = State.STARTING
        self._within_invocation = within_invocation
        self._started = time.perf_counter()
        if self._config.sidecar:
            self._look_for_runtime()
            return
        self._fetching = not self._agent.code.ready
        try:
            child = self._agent.code.fetch() if self._fetching else self._agent.spawn(self.api_port)
        except errors.StartError as error:
            self._fail_start(error.body())
            return
        self.adopt(child)

    def adopt(self, child: Child) -> None:
        """Go on with a process that was started already."""
        self.state = State.STARTING
        self.pid = child.pid
        self._started = child.started
        self._journal.open(child)
        limit = FETCH_LIMIT if self._fetching else self._config.timeout if self._within_invocation else INIT_LIMIT
        self._set_timer(limit - (time.perf_counter() - child.started))

    def refuse_start(self, error: errors.StartError) -> None:
        """Its start failed before there was a process."""
        self._fail_start(error.body())

    def _look_for_runtime(self) -> None:
        """In a sidecar: a program that runs and never asks for work is no Lambda runtime, or hangs in its start."""
        now = time.perf_counter()
        if not self._seen and sidecar.processes(self.api_port):
            self._seen = now
        if self._seen and now - self._seen >= INIT_LIMIT:
            self._fail_start(errors.never_asked(now - self._seen))
            self._to_ending()
        else:
            self._timer = self._loop.call_later(SIDECAR_LOOK, self._look_for_runtime)

    def _fail_start(self, error: dict[str, object]) -> None:
        elapsed_ms = (time.perf_counter() - self._started) * 1000 if self._started else 0.0
        status = logs.TIMEOUT if error["errorType"] == errors.TIMED_OUT else logs.ERROR
        self._journal.failed_start(elapsed_ms, status=status, error_type=str(error["errorType"]))
        self._clear_timer()
        self.state = State.ENDING if self.pid else State.STOPPED
        self._restart = False
        self._agent.on_init_failed(error)

    # what the runtime process asks (from runtime_api)

    def on_next(self, connection: RuntimeApiProtocol) -> None:
        """It asks for work: an invocation, now or when there is one."""
        if self.stopping:
            connection.abort()
            return
        state = self.state
        if state is State.BUSY:
            # a sidecar's container was started anew, or a runtime gave its invocation up: that one has no answer
            self._end_invocation(errors.EXIT_ERROR, "Runtime exited without providing a reason")
        elif state is State.STARTING:
            self.init_ms = (time.perf_counter() - self._started) * 1000
            self._init_unreported = self.init_ms
            self._agent.on_started(self.api_port)
        elif state in (State.ENDING, State.STOPPED):
            return
        if self._next is not None and self._next is not connection:
            self._next.abort()
        self._next = connection
        self._was_idle = False
        self._clear_timer()
        self.state = State.IDLE
        self._agent.on_idle(self)

    def on_init_error(self, body: bytes, error_type: str) -> bool:
        """Its start failed, and it says why. False when it had started already."""
        if self.state is not State.STARTING:
            return False
        self._fail_start(errors.init_error(body, error_type))
        if not self._config.sidecar:
            self._timer = self._loop.call_later(EXIT_GRACE, self.kill)
        else:
            self._to_ending()
        return True

    def is_running(self, request_id: str) -> bool:
        return self._invocation is not None and self._invocation.request_id == request_id

    def on_response(self, body: bytes, content_type: bytes) -> None:
        self._finish(body, content_type, b"")

    def on_error(self, body: bytes, error_type: str) -> None:
        self._finish(body or errors.body(error_type or "Runtime.Unknown", ""), b"application/json", UNHANDLED)

    def on_response_too_large(self, size: int) -> None:
        message = errors.too_large(size, self._config.max_response_bytes)
        self._end_invocation(errors.RESPONSE_TOO_LARGE, message, returning=True)

    def on_connection_lost(self, connection: RuntimeApiProtocol) -> None:
        asked = self._next is connection
        if asked:
            self._next = None
        gone = self._config.sidecar and (asked or not self.connections) and not sidecar.processes(self.api_port)
        if self.state is State.IDLE and asked:
            # it comes back, or its exit is seen
            self.state = State.RETURNING
            self._was_idle = True
            if gone:
                self._to_ending()
            elif not self._config.sidecar:
                self._set_timer(INIT_LIMIT)
        elif self.state is State.RETURNING and gone:
            # it ended between its answer and its next question
            self._to_ending()
        elif self.state is State.BUSY and asked and gone:
            self._end_invocation(errors.EXIT_ERROR, "Runtime exited without providing a reason")
            self._to_ending()

    # an invocation

    def dispatch(self, invocation: Invocation) -> None:
        """Hand it an invocation; it must be IDLE."""
        limit = self._config.timeout
        if self._within_invocation:
            limit -= self.init_ms / 1000
            self._within_invocation = False
        now = time.time()
        if invocation.deadline_ms:
            limit = min(limit, invocation.deadline_ms / 1000 - now)
        limit = max(limit, 0.001)
        invocation.limit = limit
        invocation.started = time.perf_counter()
        self.state = State.BUSY
        self._invocation = invocation
        self._timer = self._loop.call_later(limit, self._on_timer)
        self._journal.start(invocation)
        if self._next is not None:
            self._next.send(invocation, int((now + limit) * 1000))

    def _finish(
        self,
        body: bytes,
        content_type: bytes,
        error: bytes,
        *,
        status: str = "",
        error_type: str = "",
    ) -> None:
        """Answer the invocation; the process is then on its way back to `next`."""
        invocation = self._invocation
        if invocation is None:
            return
        self._invocation = None
        self.state = State.RETURNING
        duration_ms = (time.perf_counter() - invocation.started) * 1000
        init_ms, self._init_unreported = self._init_unreported, None
        opening = b"" if init_ms is None else self._agent.take_opening(self._started)
        log_result = self._journal.end(invocation, duration_ms, init_ms=init_ms, status=status, error_type=error_type)
        self._agent.finish(
            invocation,
            Answer(
                body,
                content_type=content_type,
                error=error,
                duration_ms=duration_ms,
                init_ms=init_ms,
                log_result=log_result,
                opening=opening,
            ),
        )

    def _end_invocation(self, error_type: str, message: str, *, returning: bool = False) -> None:
        """The platform answers for a process that cannot."""
        invocation = self._invocation
        if invocation is None:
            return
        status = logs.ERROR
        if error_type == errors.TIMED_OUT:
            status = logs.TIMEOUT
            message = errors.timed_out(invocation.request_id, invocation.limit, time.time())
            note = message
        else:
            note = f"RequestId: {invocation.request_id} Error: {message}"
            if error_type == errors.EXIT_ERROR:
                message = note
        self._journal.note(invocation, note)
        self._finish(
            errors.body(error_type, message), b"application/json", UNHANDLED, status=status, error_type=error_type
        )

    # time and ends

    def _on_timer(self) -> None:
        """Its start, its invocation or its way back took too long."""
        self._timer = None
        if self.state is State.STARTING:
            self._on_start_timeout()
            return
        self._restart = True
        if self.state is State.BUSY:
            self._journal.look_at_memory()
            self._kill_group()
            self._end_invocation(errors.TIMED_OUT, "")
        else:
            self._kill_group()
        self._to_ending()

    def _on_start_timeout(self) -> None:
        self._kill_group()
        if self._fetching:
            message = f"the archive was not there after {FETCH_LIMIT:.0f} seconds: {self._agent.code.url}"
            self._fail_start(errors.start_error(UNREADABLE, message))
        elif not self._within_invocation and self._agent.waiting:
            # as on Lambda: once more, within the function's own timeout
            self._restart = True
            self._within_invocation = True
            self._to_ending()
        else:
            limit = self._config.timeout if self._within_invocation else INIT_LIMIT
            self._fail_start(errors.start_timed_out(limit, within_invocation=self._within_invocation))

    def on_exit(self, status: int) -> None:
        """The process has ended and was reaped; `status` as from wait."""
        state = self.state
        self.pid = 0
        self._clear_timer()
        said = self._journal.drain()
        if state is State.STARTING and self._fetching and not self.stopping:
            self._on_fetched(status, said)
            return
        if state is State.BUSY:
            self._end_invocation(errors.EXIT_ERROR, errors.exited(status))
        self._journal.close()
        self.hang_up()
        self._next = None
        if self.stopping:
            # the agent ended it: no failure, whatever it was about to do
            self.state = State.STOPPED
            return
        # one that ends while it has nothing to do waits for the next invocation, or it could do so for ever
        restart = self._restart or state is State.BUSY or (state is State.RETURNING and not self._was_idle)
        within, self._restart = self._within_invocation and self._restart, False
        if state is State.STARTING and self._agent.never_knew(self.api_port):
            self.start(within_invocation=self._within_invocation)
            return
        if state is State.STARTING:
            self._fail_start(errors.start_error(errors.EXIT_ERROR, errors.exit_message("", errors.exited(status))))
        else:
            self.state = State.STOPPED
        if restart:
            self.start(within_invocation=within)
        else:
            self._agent.on_stopped()

    def _on_fetched(self, status: int, said: bytes) -> None:
        self._journal.close()
        if status == 0:
            self._agent.code.ready = True
            self.start(within_invocation=self._within_invocation)
            return
        lines = said.decode(errors="replace").strip().splitlines()
        message = lines[-1] if lines else f"fetching {self._agent.code.url} failed: {errors.exited(status)}"
        self._fail_start(errors.start_error(UNREADABLE, message))

    def stop(self, number: int) -> None:
        """The agent ends: send its processes a signal, and start none any more."""
        self.stopping = True
        self._signal_group(number)

    def hang_up(self) -> None:
        """End its connections."""
        for connection in list(self.connections):
            connection.abort()

    def kill(self) -> None:
        self._kill_group()

    def give_up(self, message: str) -> None:
        """The agent ends before the invocation does: answer it."""
        self._end_invocation(errors.POD_STOPPED, message)

    def _to_ending(self) -> None:
        self._clear_timer()
        self._next = None
        if self._config.sidecar:
            # the kubelet starts it anew
            self.state = State.STARTING
            self._started = time.perf_counter()
            self._seen = 0.0
            if self._agent.readiness.init_error is None:
                self._timer = self._loop.call_later(SIDECAR_LOOK, self._look_for_runtime)
        else:
            self.state = State.ENDING

    def _kill_group(self) -> None:
        if self._config.sidecar:
            sidecar.kill(self.api_port)
        else:
            self._signal_group(_signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        if self.pid:
            try:  # noqa: SIM105 - contextlib is not worth its import here
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    # small things

    def pause_output(self, paused: bool) -> None:
        self._journal.pause(paused)

    def _set_timer(self, seconds: float) -> None:
        self._clear_timer()
        self._timer = self._loop.call_later(max(seconds, 0.0), self._on_timer)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
