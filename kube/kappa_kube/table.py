"""What reflectors have read of one resource, over all scopes (namespaces, or the whole cluster), and its listener."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

T = TypeVar("T")
Key = tuple[str, str]
"""(namespace, name)"""


class Reader(Protocol[T]):
    """Reduces an object's JSON to what is kept of it; None: it is left out, or removed.

    `seen_at` is when a watch brought it, in seconds since the epoch, None for a list; `previous` what is kept so far.
    """

    def __call__(self, raw: Mapping[str, Any], seen_at: float | None, previous: T | None, /) -> T | None: ...


def key_of(raw: Mapping[str, Any]) -> Key:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


class Table(Generic[T]):
    """Every scope's objects. The listener gets one `replace` when each scope was listed once, then the changes.

    A scope that the API server refuses counts as empty until it can be listed, unless no scope can be: one namespace
    that was deleted must not keep all the others from being served.
    """

    def __init__(
        self,
        scopes: Sequence[str],
        read: Reader[T],
        *,
        replace: Callable[[Iterable[T]], None],
        put: Callable[[T], None],
        remove: Callable[[str, str], None],
    ) -> None:
        self._objects: dict[str, dict[Key, T] | None] = dict.fromkeys(scopes)
        self._refused: set[str] = set()
        self._read = read
        self._on_replace = replace
        self._on_put = put
        self._on_remove = remove

    @classmethod
    def of_few(cls, scopes: Sequence[str], read: Reader[T], changed: Callable[[Mapping[Key, T]], None]) -> Self:
        """A table whose listener gets all objects at each change."""

        def pass_on(*_: object) -> None:
            changed(table.objects())

        table = cls(scopes, read, replace=pass_on, put=pass_on, remove=pass_on)
        return table

    def objects(self) -> dict[Key, T]:
        return {key: item for objects in self._objects.values() if objects for key, item in objects.items()}

    def read(self, scope: str, raw: Mapping[str, Any]) -> tuple[Key, T] | None:
        """One object of a list that is being read, reduced at once so that the list's JSON can be freed."""
        key = key_of(raw)
        item = self._read(raw, None, (self._objects[scope] or {}).get(key))
        return None if item is None else (key, item)

    def replace(self, scope: str, objects: dict[Key, T]) -> None:
        """A complete list of one scope: what is not in it is gone."""
        self._objects[scope] = objects
        self._refused.discard(scope)
        self._notify_all()

    def refuse(self, scope: str) -> None:
        """The API server does not let this scope be listed; what was known of it stays."""
        if self._objects[scope] is None and scope not in self._refused:
            self._refused.add(scope)
            self._notify_all()

    def put(self, scope: str, raw: Mapping[str, Any], seen_at: float) -> None:
        objects = self._objects[scope]
        assert objects is not None, "a watch starts after its list"
        key = key_of(raw)
        previous = objects.get(key)
        item = self._read(raw, seen_at, previous)
        if item is None:
            self.remove(scope, raw)
        elif item != previous:
            objects[key] = item
            if self._synced:
                self._on_put(item)

    def remove(self, scope: str, raw: Mapping[str, Any]) -> None:
        objects = self._objects[scope]
        assert objects is not None, "a watch starts after its list"
        key = key_of(raw)
        if objects.pop(key, None) is not None and self._synced:
            self._on_remove(*key)

    def _notify_all(self) -> None:
        if self._synced:
            self._on_replace(list(self.objects().values()))

    @property
    def _synced(self) -> bool:
        listed = [objects is not None for objects in self._objects.values()]
        return any(listed) and sum(listed) + len(self._refused) == len(listed)
