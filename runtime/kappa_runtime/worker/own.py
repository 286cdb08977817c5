"""A runtime process that the agent starts itself: one of the two kinds of `process.Control`."""

from __future__ import annotations

import os
import time

from kappa_core.agent_config import AgentConfig
from kappa_runtime.imports import signal
from kappa_runtime.start import code, environment
from kappa_runtime.start.child import Child, Starter
from kappa_runtime.start.code import FunctionCode
from kappa_runtime.worker import errors, states
from kappa_runtime.worker.states import Event

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

INIT_LIMIT: Final = 10.0
"""Seconds a start may take, as on Lambda; one that takes longer is done again within the next invocation's timeout."""
FETCH_LIMIT: Final = 120.0
"""Seconds that fetching and unpacking an archive may take."""


class OwnProcess:
    transitions = states.OWN
    lost_limit: float | None = INIT_LIMIT

    def __init__(self, config: AgentConfig, code: FunctionCode, starter: Starter, api_port: int) -> None:
        self._config = config
        self._code = code
        self._starter = starter
        self._api_port = api_port
        self._child: Child | None = None
        self._limit = 0.0

    @property
    def pid(self) -> int:
        return 0 if self._child is None else self._child.pid

    @property
    def start_event(self) -> str:
        return Event.START if self._code.ready else Event.FETCH

    def start(self, *, within_invocation: bool) -> Child | None:
        try:
            if self._code.ready:
                self._child = self._starter.start(self._api_port)
                self._limit = self._config.timeout if within_invocation else INIT_LIMIT
            else:
                self._child = self._code.fetch()
                self._limit = FETCH_LIMIT
        except code.CodeUnreadable as error:
            raise errors.StartError(code.UNREADABLE, str(error)) from None
        except environment.NoEntrypoint as error:
            raise errors.StartError(errors.INVALID_ENTRYPOINT, str(error)) from None
        except OSError as error:
            raise errors.StartError(errors.EXIT_ERROR, f"no process can be started: {error}") from None
        return self._child

    def start_timer(self, started: float) -> float:
        return self._limit - (time.perf_counter() - started)

    def start_overdue(self, *, within_invocation: bool, wanted: bool) -> dict[str, object] | None:
        self.kill()
        if not self._code.ready:
            message = f"the archive was not there after {FETCH_LIMIT:.0f} seconds: {self._code.url}"
            return errors.start_error(code.UNREADABLE, message)
        if wanted and not within_invocation:
            # as on Lambda: once more, within the function's own timeout
            return None
        return errors.start_timed_out(self._limit, within_invocation=within_invocation)

    def fetch_failure(self, status: int, said: bytes) -> errors.StartError | None:
        """Why the process that fetched failed, by its wait status and its last output; None: it did not."""
        if status == 0:
            self._code.fetched()
            return None
        lines = said.decode(errors="replace").strip().splitlines()
        message = lines[-1] if lines else f"fetching {self._code.url} failed: {errors.exited(status)}"
        return errors.StartError(code.UNREADABLE, message)

    def on_serving(self) -> None:
        if self._child is not None:
            self._child.on_serving()

    def on_exit(self) -> Child | None:
        child, self._child = self._child, None
        return child

    def has_ended(self, *, asked: bool, connected: bool) -> bool:
        # its exit is noticed
        return False

    def signal(self, number: int) -> None:
        if self._child is not None:
            try:  # noqa: SIM105 - contextlib is not worth its import here
                os.killpg(self._child.pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
