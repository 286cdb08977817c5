"""One runtime process: it walks through `states`, and on the way runs invocations and bounds their time."""

from __future__ import annotations

import time

from kappa_core.agent_config import AgentConfig
from kappa_runtime.io.loop import EventLoop, TimerHandle
from kappa_runtime.start.child import Child
from kappa_runtime.worker import errors, logs
from kappa_runtime.worker.invocation import UNHANDLED, Answer, Invocation
from kappa_runtime.worker.journal import Journal
from kappa_runtime.worker.runtime_api import RuntimeApi, RuntimeApiProtocol
from kappa_runtime.worker.states import Event, State

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Protocol
else:
    Protocol = object

EXIT_GRACE: Final = 1.0
"""Seconds that a process may take to exit after its start has failed."""


class Control(Protocol):
    """What differs between a process of the agent's own (`own`) and one in another container (`sidecar`)."""

    @property
    def transitions(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def lost_limit(self) -> float | None:
        """Seconds in which a process whose connection broke while it was idle must ask again; None: no limit."""

    @property
    def pid(self) -> int:
        """0: the agent has started none."""

    @property
    def start_event(self) -> str: ...
    def start(self, *, within_invocation: bool) -> Child | None:
        """Start it; None: somebody else does. Raises `errors.StartError`."""

    def start_timer(self, started: float) -> float:
        """Seconds until `start_overdue`."""

    def start_overdue(self, *, within_invocation: bool, wanted: bool) -> dict[str, object] | None:
        """Why a start that takes long has failed; None: it goes on, or is repeated. `wanted`: an invocation waits."""

    def fetch_failure(self, status: int, said: bytes) -> errors.StartError | None: ...
    def on_serving(self) -> None: ...
    def on_exit(self) -> Child | None:
        """The process has ended: which it was."""

    def has_ended(self, *, asked: bool, connected: bool) -> bool:
        """A connection is lost, the one with which it asks or another: whether the process has ended."""

    def signal(self, number: int) -> None: ...
    def kill(self) -> None: ...


class Dispatcher(Protocol):
    """Who has the invocations: the agent."""

    def on_idle(self, process: RuntimeProcess) -> None:
        """It can take an invocation now."""

    def on_init_failed(self, error: dict[str, object]) -> None: ...
    def on_stopped(self) -> None: ...
    def finish(self, invocation: Invocation, answer: Answer) -> None: ...
    def take_opening(self, started: float) -> bytes:
        """The phases before a start at this time, for the first answer."""

    @property
    def wanted(self) -> bool:
        """An invocation waits for a process."""


class RuntimeProcess:
    def __init__(
        self,
        config: AgentConfig,
        loop: EventLoop,
        control: Control,
        api: RuntimeApi,
        journal: Journal,
        dispatcher: Dispatcher,
    ) -> None:
        self.state = State.STOPPED
        self.init_ms = 0.0
        """Of its last start that was completed."""
        self._config = config
        self._loop = loop
        self._control = control
        self._api = api
        self._journal = journal
        self._dispatcher = dispatcher
        self._next: RuntimeApiProtocol | None = None
        self._invocation: Invocation | None = None
        self._timer: TimerHandle | None = None
        self._started = 0.0
        """When its last start began, as `time.perf_counter`."""
        self._within_invocation = False
        """Its start counts towards the timeout of the invocation that waits for it."""
        self._init_unreported: float | None = None

    @property
    def pid(self) -> int:
        return self._control.pid

    def _move(self, event: str) -> None:
        try:
            self.state = self._control.transitions[self.state, event]
        except KeyError:
            raise RuntimeError(f"a runtime process that is {self.state}: no transition for {event}") from None

    # starting

    def start(self, *, within_invocation: bool) -> None:
        """Start it; it must be STOPPED. Within an invocation the function's own timeout bounds the start."""
        self._within_invocation = within_invocation
        self._move(self._control.start_event)
        self._begin()

    def _begin(self) -> None:
        """What STARTING and FETCHING begin with."""
        self._started = time.perf_counter()
        try:
            child = self._control.start(within_invocation=self._within_invocation)
        except errors.StartError as error:
            self._fail_start(error.body())
            self._move(Event.ENDED)
            return
        if child is None:
            self._serve()
        else:
            self._started = child.started
            self._journal.open(child)
            child.when_requests_are_the_functions(self._serve)
        self._set_timer(self._control.start_timer(self._started))

    def _serve(self) -> None:
        self._api.serve(self, self._config.max_response_bytes)

    def _fail_start(self, error: dict[str, object]) -> None:
        elapsed_ms = (time.perf_counter() - self._started) * 1000
        status = logs.TIMEOUT if error["errorType"] == errors.TIMED_OUT else logs.ERROR
        self._journal.failed_start(elapsed_ms, status=status, error_type=str(error["errorType"]))
        self._move(Event.START_FAILED)
        self._next = None
        self._started = time.perf_counter()
        if self.pid:
            self._set_timer(EXIT_GRACE)
        else:
            self._clear_timer()
        self._dispatcher.on_init_failed(error)

    # what the runtime process asks (as `runtime_api.Runtime`)

    def on_next(self, connection: RuntimeApiProtocol) -> None:
        """It asks for work: an invocation, now or when there is one."""
        if self.state is State.CLOSING:
            connection.abort()
            return
        if self.state is State.BUSY:
            # a sidecar's container was started again, or a runtime abandoned its invocation, which has no answer
            self._end_invocation(errors.EXIT_ERROR, "Runtime exited without providing a reason")
        if (self.state, Event.ASKED) not in self._control.transitions:
            return
        if self.state in (State.STARTING, State.FAILED):
            self.init_ms = (time.perf_counter() - self._started) * 1000
            self._init_unreported = self.init_ms
            self._control.on_serving()
        if self._next is not None and self._next is not connection:
            self._next.abort()
        self._next = connection
        self._clear_timer()
        self._move(Event.ASKED)
        self._dispatcher.on_idle(self)

    def on_init_error(self, body: bytes, error_type: str) -> bool:
        """Its start failed, and it says why. False when it had started already."""
        if self.state not in (State.STARTING, State.FAILED):
            return False
        self._fail_start(errors.init_error(body, error_type))
        return True

    def is_running(self, request_id: str) -> bool:
        return self._invocation is not None and self._invocation.request_id == request_id

    def on_response(self, body: bytes, content_type: bytes) -> None:
        self._finish(body, content_type, b"")

    def on_error(self, body: bytes, error_type: str) -> None:
        self._finish(body or errors.body(error_type or "Runtime.Unknown", ""), b"application/json", UNHANDLED)

    def on_response_too_large(self, size: int) -> None:
        message = errors.too_large(size, self._config.max_response_bytes)
        self._end_invocation(errors.RESPONSE_TOO_LARGE, message)

    def on_connection_lost(self, connection: RuntimeApiProtocol) -> None:
        asked = self._next is connection
        if asked:
            self._next = None
        if self.state is State.IDLE and asked:
            self._move(Event.DISCONNECTED)
            if self._control.lost_limit is not None:
                self._set_timer(self._control.lost_limit)
        busy = self.state is State.BUSY
        if not (self.state in (State.LOST, State.RETURNING) or (busy and asked)):
            return
        if self._control.has_ended(asked=asked, connected=bool(self._api.connections)):
            if busy:
                self._end_invocation(errors.EXIT_ERROR, "Runtime exited without providing a reason")
            self._next = None
            self._move(Event.ENDED)
            self._begin()

    # an invocation

    def dispatch(self, invocation: Invocation) -> None:
        """Give it an invocation; it must be IDLE."""
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
        self._move(Event.TAKEN)
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
        self._move(Event.ANSWERED)
        duration_ms = (time.perf_counter() - invocation.started) * 1000
        init_ms, self._init_unreported = self._init_unreported, None
        opening = b"" if init_ms is None else self._dispatcher.take_opening(self._started)
        log_result = self._journal.end(invocation, duration_ms, init_ms=init_ms, status=status, error_type=error_type)
        self._dispatcher.finish(
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

    def _end_invocation(self, error_type: str, message: str) -> None:
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
        """Its start, its invocation, its way back or its end took too long."""
        self._timer = None
        if self.state in (State.STARTING, State.FETCHING):
            self._on_start_overdue()
            return
        if self.state is State.BUSY:
            self._journal.look_at_memory()
        self._control.kill()
        if self.state is State.ENDING:
            return
        self._end_invocation(errors.TIMED_OUT, "")
        self._clear_timer()
        self._next = None
        self._move(Event.OVERDUE)
        if self.state is State.STARTING:
            self._begin()

    def _on_start_overdue(self) -> None:
        within = self._within_invocation
        error = self._control.start_overdue(within_invocation=within, wanted=self._dispatcher.wanted)
        if error is not None:
            self._fail_start(error)
            return
        self._move(Event.OVERDUE)
        if self.state is State.STARTING:
            self._set_timer(self._control.start_timer(self._started))
        else:
            self._within_invocation = True

    def on_exit(self, status: int) -> None:
        """The process has ended and was reaped; `status` as from wait."""
        child = self._control.on_exit()
        self._clear_timer()
        said = self._journal.drain()
        if self.state is State.FETCHING:
            self._on_fetched(status, said)
            return
        if self.state is State.BUSY:
            self._end_invocation(errors.EXIT_ERROR, errors.exited(status))
        self._journal.close()
        self.hang_up()
        self._next = None
        if self.state is State.STARTING and not (child is not None and child.ended_unaware()):
            self._fail_start(errors.start_error(errors.EXIT_ERROR, errors.exit_message("", errors.exited(status))))
        self._move(Event.ENDED)
        if self.state is State.STARTING:
            self._begin()
        elif self.state is State.STOPPED:
            self._dispatcher.on_stopped()

    def _on_fetched(self, status: int, said: bytes) -> None:
        self._journal.close()
        failure = self._control.fetch_failure(status, said)
        if failure is None:
            self._move(Event.FETCHED)
            self._begin()
        else:
            self._fail_start(failure.body())
            self._move(Event.ENDED)

    def stop(self, number: int) -> None:
        """The agent ends: send its processes a signal, and start none any more."""
        self._move(Event.CLOSE)
        self._clear_timer()
        self._control.signal(number)

    def hang_up(self) -> None:
        """End its connections."""
        self._api.hang_up()

    def kill(self) -> None:
        """End it and what it started."""
        self._control.kill()

    def give_up(self, message: str) -> None:
        """The agent ends before the invocation does: answer it."""
        self._end_invocation(errors.POD_STOPPED, message)

    # the timer

    def _set_timer(self, seconds: float) -> None:
        self._clear_timer()
        self._timer = self._loop.call_later(max(seconds, 0.0), self._on_timer)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
