"""httptools without `typing`, which it imports for annotations alone: with `re` and `enum` that was a quarter of an agent's
start, on the way of every cold start."""

import sys


class _Annotation:
    """Stands for whatever an annotation is made of."""

    def __class_getitem__(cls, _: object) -> type:
        return cls


def _load() -> None:
    if "typing" in sys.modules:
        import httptools

        return
    stand_in = type(sys)("typing")
    stand_in.Optional = stand_in.Protocol = _Annotation  # type: ignore[attr-defined]
    sys.modules["typing"] = stand_in
    try:
        import httptools  # noqa: F401
    except (ImportError, AttributeError, TypeError):
        # another version, which wants more of it: as usual, then
        for name in [name for name in sys.modules if name.partition(".")[0] == "httptools"]:
            del sys.modules[name]
    finally:
        del sys.modules["typing"]


_load()

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser  # noqa: E402

__all__ = ["HttpParserError", "HttpParserUpgrade", "HttpRequestParser"]
