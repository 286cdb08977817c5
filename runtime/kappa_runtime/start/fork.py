"""How a fork of the agent becomes the function's interpreter: the first process of a Python function starts so.

The interpreter and what both need are loaded once, which saves 10 of the 25 ms of a new interpreter. The function must
not notice, so the fork takes on what a new interpreter would have: variables, time zone, unbuffered output, `sys.path`,
signals.
"""

from __future__ import annotations

import io
import os
import sys
import time

from kappa_runtime.imports import signal

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Mapping

TERMINAL_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
"""A shell's `&` or nohup makes a process ignore some of them, which its children would inherit."""
HARMLESS = frozenset(("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONIOENCODING"))


def can_fork(env: Mapping[str, str]) -> bool:
    """Python reads its PYTHON* variables when it starts: a function that sets some gets a new interpreter."""
    return not any(name.startswith("PYTHON") and name not in HARMLESS for name in env)


def become_python(variables: Mapping[str, str], handler: str, task_root: str) -> None:
    """What a new interpreter would have made of these variables: `spawn` with `environment.command`."""
    env = os.environ
    for name in env.keys() - variables.keys():
        del env[name]
    for name, value in variables.items():
        # each one set is a copy of the whole environment for the C library
        if env.get(name) != value:
            env[name] = value
    time.tzset()
    for name, fd in (("stdout", 1), ("stderr", 2)):
        # unbuffered, as Python does with -u: what was printed is in the pipe before the answer is
        stream = getattr(sys, name)
        raw = io.FileIO(fd, "w", closefd=False)
        text = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, write_through=True)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    sys.path.insert(0, task_root)
    from kappa_runtime.start import python_runtime  # the agent has no use for it

    sys.argv[:] = [python_runtime.__file__, handler]
    for number in TERMINAL_SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupt else signal.SIG_DFL)
