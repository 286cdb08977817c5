"""uvloop and asyncio without `ssl`, which both import when they are loaded and the agent never needs.

Worth 7 ms of a cold start and 4.4 MiB of every function pod. While this is active, `import ssl` gives a module whose
names stand for nothing; afterwards the real one can be imported as ever.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class _NoTls(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        # numbers for the error codes, else a class that fits except clauses and isinstance
        return 0 if name.startswith("SSL_ERROR") else type(name, (Exception,), {})


@contextmanager
def active() -> Iterator[None]:
    if "ssl" in sys.modules:
        yield
        return
    sys.modules["ssl"] = _NoTls("ssl")
    try:
        yield
    finally:
        del sys.modules["ssl"]
