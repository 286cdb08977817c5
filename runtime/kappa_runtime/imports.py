"""Every import trick of the agent, and what each one saves.

A function's pod pays for the agent's imports in each cold start and in its memory. The figures are milliseconds of CPU
in a new interpreter (Python 3.11, the smallest of 15 runs on a busy machine). What several modules load counts in each.

| trick | with it | instead of | without it |
| --- | --- | --- | --- |
| `TYPE_CHECKING = False` in each module | 0 | `typing`, which loads `re` and `enum` | 13.9 |
| `socket` is the C module `_socket` | 0.4 | `socket`, which loads `selectors` and `enum` | 10.5 |
| `signal` is the C module `_signal` | 0 | `signal`, which loads `enum` | 6.6 |
| `deque`, `OrderedDict`, `heappush`, `heappop` from C modules | 0.4 | `collections` and `heapq` | 2.7 |
| `load_http_parser` loads httptools without `typing` | 3.3 | httptools, which loads `typing` | 19.0 |
| all of them: everything that an agent imports | 13.9 | | 34.2 |

Two ways are no tricks: a module that only an error or a rare request needs (`json`, `binascii`) is imported where it is
used, and a pool pod loads what both of its processes need before it forks.
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
