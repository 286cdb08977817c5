"""A runtime process in another container of the pod (`image.protocol: lambda`): the other kind of `process.Control`.

The pod shares one process namespace and one uid, so the agent finds the other container's processes by the variable
that makes them Lambda runtimes, and can end them; the kubelet then starts the container again.
"""

from __future__ import annotations

import os
import time

from kappa_runtime import platform
from kappa_runtime.imports import signal
from kappa_runtime.start.child import Child
from kappa_runtime.worker import errors, states
from kappa_runtime.worker.own import INIT_LIMIT
from kappa_runtime.worker.states import Event

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

LOOK_INTERVAL: Final = 1.0
"""Seconds between looks for the other container's process, which the kubelet starts after the agent."""


class SidecarProcess:
    transitions = states.SIDECAR
    lost_limit: float | None = None
    pid = 0
    start_event = Event.START

    def __init__(self, api_port: int) -> None:
        self._api_port = api_port
        self._seen = 0.0
        """When the other container's process was seen first, as `time.perf_counter`; 0.0: it was not."""

    def start(self, *, within_invocation: bool) -> Child | None:
        self._seen = 0.0
        return None

    def start_timer(self, started: float) -> float:
        return LOOK_INTERVAL

    def start_overdue(self, *, within_invocation: bool, wanted: bool) -> dict[str, object] | None:
        """A program that runs and never asks for work is no Lambda runtime, or hangs in its start."""
        now = time.perf_counter()
        if not self._seen and processes(self._api_port):
            self._seen = now
        if self._seen and now - self._seen >= INIT_LIMIT:
            return errors.never_asked(now - self._seen)
        return None

    def fetch_failure(self, status: int, said: bytes) -> errors.StartError | None:
        return None

    def on_serving(self) -> None:
        pass

    def on_exit(self) -> Child | None:
        return None

    def has_ended(self, *, asked: bool, connected: bool) -> bool:
        return (asked or not connected) and not processes(self._api_port)

    def signal(self, number: int) -> None:
        """The kubelet ends its container."""

    def kill(self) -> None:
        for pid in processes(self._api_port):
            try:  # noqa: SIM105 - contextlib is not worth its import here
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def processes(api_port: int) -> list[int]:
    """The other container's processes: same uid, started as a runtime of this agent's Runtime API.

    Never the pod's first process or the agent itself.
    """
    own_uid = os.getuid()
    spared = {1, os.getpid(), os.getppid()}
    return [
        pid
        for pid in platform.pids()
        if pid not in spared
        and platform.owner(pid) == own_uid
        and is_runtime(platform.environment(pid) or b"", api_port)
    ]


def is_runtime(environment: bytes, api_port: int) -> bool:
    """Whether variables (NUL between them) name the Runtime API at this port of the pod."""
    marks = (b"AWS_LAMBDA_RUNTIME_API=127.0.0.1:%d" % api_port, b"AWS_LAMBDA_RUNTIME_API=localhost:%d" % api_port)
    return any(variable in marks for variable in environment.split(b"\0"))
