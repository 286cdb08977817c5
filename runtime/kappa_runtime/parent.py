"""A process that ends when its parent ends, however that ends (Linux; elsewhere nothing happens).

The kernel's "parent" is the thread that started the process: whoever starts an agent with `parent_death` must do so from
a thread that lives as long as it wants the agent to. Only local mode imports this: ctypes costs 8 ms.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent_pid: int) -> None:
    """Be sent SIGKILL when the parent ends; exit at once when it already has."""
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
