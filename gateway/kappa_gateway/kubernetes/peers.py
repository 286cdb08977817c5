"""The other gateways: their pods' names, which are their names in what they share of `maxReplicas`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

_GONE: Final = frozenset({"Succeeded", "Failed"})


class Peers:
    """A table's sink that tells `replace_peers` the whole set each time."""

    def __init__(self, replace_peers: Callable[[Iterable[str]], None]) -> None:
        self._tell = replace_peers
        self._names: set[str] = set()

    @staticmethod
    def read(raw: Mapping[str, Any], _seen_at: float | None, _previous: str | None, /) -> str | None:
        """A gateway that stops may still claim, so it counts until it has ended."""
        name: str = raw["metadata"]["name"]
        return None if (raw.get("status") or {}).get("phase") in _GONE else name

    def replace(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._tell(self._names)

    def put(self, name: str) -> None:
        self._names.add(name)
        self._tell(self._names)

    def remove(self, _namespace: str, name: str) -> None:
        self._names.discard(name)
        self._tell(self._names)
