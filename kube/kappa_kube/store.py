"""Versioned objects by key, which may come in any order: by kopf's watches, by full lists, by the answers to writes.

An older object never replaces a newer one, whichever way it came, nor does one from before a deletion: the answer to
a write may arrive after the event that says that the object was deleted. What a full list does not hold is gone, unless
an event said otherwise while the list was on its way.
"""

from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Versioned(Protocol):
    @property
    def resource_version(self) -> int: ...


T = TypeVar("T", bound=Versioned)


class Store(Generic[T]):
    """A full list is taken in two steps: `begin_relist`, then `end_relist` with what it held."""

    def __init__(self) -> None:
        self._items: dict[str, T] = {}
        self._deleted: dict[str, int] = {}
        self._deleted_before: dict[str, int] = {}
        """The resource version of each deletion since the last full list, and since the one before."""
        self._touched: set[str] | None = None
        """Keys that an event or an answer changed while a list is on its way."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def get(self, key: str) -> T | None:
        return self._items.get(key)

    def put(self, key: str, item: T) -> bool:
        """False if the known one is newer, or the object was deleted since."""
        known = self._items.get(key)
        if known is not None and known.resource_version > item.resource_version:
            return False
        if max(self._deleted.get(key, -1), self._deleted_before.get(key, -1)) >= item.resource_version:
            return False
        self._items[key] = item
        if self._touched is not None:
            self._touched.add(key)
        return True

    def remove(self, key: str, version: int = -1) -> T | None:
        """`version` is the resource version of the deletion, where it is known."""
        self._deleted[key] = max(version, self._deleted.get(key, -1))
        if self._touched is not None:
            self._touched.add(key)
        return self._items.pop(key, None)

    def begin_relist(self) -> None:
        self._touched = set()

    def end_relist(self, listed: Mapping[str, T]) -> set[str]:
        """Take over a list; the keys of what is new, changed or gone."""
        touched, self._touched = self._touched or set(), None
        self._deleted_before, self._deleted = self._deleted, {}
        changed = set()
        for key, item in listed.items():
            known = self._items.get(key)
            if key not in touched and (known is None or known.resource_version < item.resource_version):
                self._items[key] = item
                changed.add(key)
        for key in [key for key in self._items if key not in listed and key not in touched]:
            del self._items[key]
            changed.add(key)
        return changed
