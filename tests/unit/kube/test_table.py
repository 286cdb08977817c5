"""What a table's listener is called with, over several scopes."""

import pytest

from kappa_kube.table import Table


@pytest.fixture
def heard():
    return []


@pytest.fixture
def table(heard):
    return Table(
        ["a", "b"],
        lambda raw, seen_at, previous: raw["metadata"]["name"],
        replace=lambda items: heard.append(("replace", sorted(items))),
        put=lambda item: heard.append(("put", item)),
        remove=lambda namespace, name: heard.append(("remove", name)),
    )


def raw(namespace, name):
    return {"metadata": {"namespace": namespace, "name": name}}


def test_the_listener_is_not_called_before_every_scope_was_listed(table, heard):
    table.replace("a", {("a", "x"): "x"})
    table.put("a", raw("a", "y"), 0.0)
    assert heard == []
    table.replace("b", {("b", "z"): "z"})
    assert heard == [("replace", ["x", "y", "z"])]


def test_a_refused_scope_counts_as_empty_until_it_can_be_listed(table, heard):
    table.refuse("b")
    assert heard == []
    table.replace("a", {("a", "x"): "x"})
    assert heard == [("replace", ["x"])]
    table.refuse("b")
    table.put("a", raw("a", "y"), 0.0)
    table.replace("b", {("b", "z"): "z"})
    assert heard[1:] == [("put", "y"), ("replace", ["x", "y", "z"])]


def test_with_every_scope_refused_nothing_is_known(table, heard):
    table.refuse("a")
    table.refuse("b")
    assert heard == []


def test_what_was_known_of_a_scope_stays_when_it_is_refused(table, heard):
    table.replace("a", {("a", "x"): "x"})
    table.replace("b", {("b", "z"): "z"})
    table.refuse("b")
    assert heard == [("replace", ["x", "z"])]


def test_a_table_of_few_passes_on_all_objects_at_each_change():
    heard = []
    table = Table.of_few(
        ["a"], lambda raw, seen_at, previous: raw["metadata"]["name"], lambda all_: heard.append(dict(all_))
    )
    table.replace("a", {("a", "x"): "x"})
    table.put("a", raw("a", "y"), 0.0)
    table.put("a", raw("a", "y"), 1.0)
    table.remove("a", raw("a", "x"))
    assert heard == [{("a", "x"): "x"}, {("a", "x"): "x", ("a", "y"): "y"}, {("a", "y"): "y"}]
