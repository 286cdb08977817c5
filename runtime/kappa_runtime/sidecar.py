"""A runtime process in another container of the pod (`image.protocol: lambda`).

The pod shares one process namespace and one uid, so the agent finds the other container's processes by the variable that
makes them Lambda runtimes, and can end them; the kubelet then starts the container anew.
"""

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import os

from kappa_runtime import procfs


def processes(api_port: int) -> list[int]:
    """The other container's processes: same uid, started as a runtime of this agent's Runtime API.

    Never the pod's first process or the agent itself.
    """
    own_uid = os.getuid()
    spared = {1, os.getpid(), os.getppid()}
    return [
        pid
        for pid in procfs.pids()
        if pid not in spared and procfs.owner(pid) == own_uid and is_runtime(procfs.environment(pid) or b"", api_port)
    ]


def is_runtime(environment: bytes, api_port: int) -> bool:
    """Whether variables (NUL between them) name the Runtime API at this port of the pod."""
    marks = (b"AWS_LAMBDA_RUNTIME_API=127.0.0.1:%d" % api_port, b"AWS_LAMBDA_RUNTIME_API=localhost:%d" % api_port)
    return any(variable in marks for variable in environment.split(b"\0"))


def kill(api_port: int) -> int:
    """End them. How many there were."""
    found = processes(api_port)
    for pid in found:
        try:  # noqa: SIM105 - contextlib is not worth its import here
            os.kill(pid, _signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    return len(found)
