"""A store's promises: newer wins, and a full list takes away what is gone but not what came meanwhile."""

from dataclasses import dataclass

from kappa_kube.store import Store


@dataclass(frozen=True)
class Item:
    resource_version: int


def test_an_older_object_never_replaces_a_newer_one() -> None:
    store = Store[Item]()
    assert store.put("a", Item(7))
    assert not store.put("a", Item(5))
    assert store.put("a", Item(7)), "the same again is no harm"
    assert store.get("a") == Item(7)


def test_a_full_list_takes_ghosts_away_and_keeps_what_came_meanwhile() -> None:
    store = Store[Item]()
    store.put("ghost", Item(1))
    store.put("stays", Item(1))
    store.begin_relist()
    store.put("came", Item(9))
    store.put("newer", Item(9))
    store.remove("went")
    listed = {"stays": Item(1), "newer": Item(2), "went": Item(1), "missed": Item(3)}
    assert store.end_relist(listed) == {"ghost", "missed"}
    assert set(store) == {"stays", "came", "newer", "missed"}
    assert store.get("newer") == Item(9)


def test_a_list_brings_the_newer_version() -> None:
    store = Store[Item]()
    store.put("a", Item(1))
    store.begin_relist()
    assert store.end_relist({"a": Item(2)}) == {"a"}
    assert (store.get("a"), len(store)) == (Item(2), 1)


def test_an_answer_from_before_a_deletion_brings_nothing_back() -> None:
    """The answer to a status patch may come after the event that says that the object was deleted."""
    store = Store[Item]()
    store.put("a", Item(5))
    store.remove("a", 8)
    assert not store.put("a", Item(7))
    assert store.get("a") is None
    # nor while a list is taken, or soon after
    store.begin_relist()
    assert store.end_relist({}) == set()
    assert not store.put("a", Item(7))
    # one of the same name that was created since is another object
    assert store.put("a", Item(9))
    for _ in range(2):
        store.begin_relist()
        store.end_relist({"a": Item(9)})
    store.remove("a", 12)
    assert not store.put("a", Item(11))
