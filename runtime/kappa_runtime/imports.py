"""Every import trick of the agent, and what each one saves.

A function's pod pays for the agent's imports in each cold start and in each pod's memory. The figures are milliseconds
of one interpreter on the benchmark machine (Python 3.11, `python -I -X importtime`, median of 15), for the module and
what it alone pulls in:

| trick | instead of | saves |
| --- | --- | --- |
| `TYPE_CHECKING = False` in each module | `from typing import TYPE_CHECKING`, which loads `typing` and `re` | TYPING |
| `socket`: the C module `_socket` | `socket`, which loads `selectors` and `enum` | SOCKET |
| `signal`: the C module `_signal` | `signal`, which loads `enum` | SIGNAL |
| `deque`, `OrderedDict`, `heappush`, `heappop` from their C modules | `collections` and `heapq` | COLLECTIONS |
| `load_http_parser`: httptools without `typing` | httptools as it is | HTTPTOOLS |

Two more keep to the standard ways: a module that only an error or a rare request needs (`json`, `binascii`) is imported
where it is used, and a pool pod loads what both of its processes need before it forks.
"""

from __future__ import annotations

import sys
from _collections import OrderedDict, deque  # type: ignore[import-not-found]
from _heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from typing import Any
else:
    import _signal as signal
    import _socket as socket

__all__ = ["OrderedDict", "deque", "heappop", "heappush", "load_http_parser", "signal", "socket"]


class _Annotation:
    """Stands for whatever an annotation is made of."""

    def __class_getitem__(cls, _: object) -> type:
        return cls


def load_http_parser() -> Any:
    """The module `httptools`. It imports `typing` for annotations alone, so it gets a stand-in while it is loaded."""
    if "typing" not in sys.modules:
        stand_in = type(sys)("typing")
        stand_in.Optional = stand_in.Protocol = _Annotation  # type: ignore[attr-defined]
        sys.modules["typing"] = stand_in
        try:
            import httptools
        except (ImportError, AttributeError, TypeError):
            # another version, which needs more of `typing`: it is loaded the usual way
            for name in [name for name in sys.modules if name.partition(".")[0] == "httptools"]:
                del sys.modules[name]
        finally:
            del sys.modules["typing"]
    import httptools

    return httptools
