"""A runtime process in another container of the pod (`image.protocol: lambda`).

The pod shares one process namespace and one uid, so the agent finds the other container's processes by the variable that
makes them Lambda runtimes, and can end them; the kubelet then starts the container anew.
"""

import os
import signal

from kappa_runtime import procfs

_MARK = b"AWS_LAMBDA_RUNTIME_API="


def processes() -> list[int]:
    """The other container's processes: same uid, started as a Lambda runtime; never the pod's first process or the agent."""
    own_uid = os.getuid()
    spared = {1, os.getpid(), os.getppid()}
    found = []
    for pid in procfs.pids():
        if pid in spared or procfs.owner(pid) != own_uid:
            continue
        environment = procfs.environment(pid)
        if environment is not None and (environment.startswith(_MARK) or b"\0" + _MARK in environment):
            found.append(pid)
    return found


def kill() -> int:
    """End them. How many there were."""
    found = processes()
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return len(found)
