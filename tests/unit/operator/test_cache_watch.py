"""What watches and lists make of the cache: newer wins, ghosts go, and the right Functions are looked at."""

from typing import Any

import pytest

from kappa_core import names
from kappa_operator import cache as facts
from kappa_operator.cache import Cache
from kappa_operator.watch import Watcher


def function(version: int = 1, uid: str = "u", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "hello",
            "namespace": "default",
            "uid": uid,
            "generation": 1,
            "resourceVersion": str(version),
        },
        "spec": {"runtime": "p", "handler": "m.h", "code": {"inline": "x"}},
        **more,
    }


def deployment(version: int = 1, name: str = "fn-hello", uid: str = "d") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {names.LABEL_FUNCTION: "hello"},
        },
        "spec": {"replicas": version},
    }


def pod(version: int = 1, name: str = "fn-hello-1") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "resourceVersion": str(version),
            "labels": {names.LABEL_FUNCTION: "hello"},
        },
        "spec": {},
        "status": {},
    }


def config_map(version: int = 1, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": "code", "namespace": "default", "resourceVersion": str(version)}, "data": data}


class World:
    def __init__(self) -> None:
        self.cache = Cache()
        self.enqueued: list[str] = []
        self.watcher = Watcher(self.cache, self.enqueued.append)

    def took(self) -> list[str]:
        enqueued = self.enqueued[:]
        self.enqueued.clear()
        return enqueued


@pytest.fixture
def world() -> World:
    return World()


def test_every_kind_of_object_leads_to_its_function(world: World) -> None:
    world.watcher.function(function(), gone=False)
    world.watcher.deployment(deployment(), gone=False)
    world.watcher.pod(pod(), gone=False)
    world.cache.refer("default/hello", ["default/code"])
    world.watcher.config_map(config_map(), gone=False)
    assert world.took() == ["default/hello"] * 4


def test_a_config_map_that_nobody_uses_wakes_nobody(world: World) -> None:
    world.watcher.config_map(config_map(), gone=False)
    world.cache.refer("default/hello", ["default/code"])
    world.cache.refer("default/hello", [])
    world.watcher.config_map(config_map(2), gone=False)
    assert world.took() == []


def test_an_older_event_changes_nothing(world: World) -> None:
    world.watcher.deployment(deployment(7), gone=False)
    world.watcher.deployment(deployment(5), gone=False)
    known = world.cache.deployments.get("default/hello")
    assert known is not None
    assert known.replicas == 7


def test_the_end_of_an_earlier_object_is_not_that_of_its_successor(world: World) -> None:
    world.watcher.function(function(5, uid="new"), gone=False)
    world.watcher.function(function(4, uid="old"), gone=True)
    world.watcher.deployment(deployment(5, uid="new"), gone=False)
    world.watcher.deployment(deployment(4, uid="old"), gone=True)
    assert world.cache.functions.get("default/hello") is not None
    assert world.cache.deployments.get("default/hello") is not None


def test_a_deployment_that_only_looks_like_a_functions_is_ignored(world: World) -> None:
    world.watcher.deployment(deployment(name="other"), gone=False)
    assert (world.took(), len(world.cache.deployments)) == ([], 0)


def test_pods_are_found_by_their_function_until_they_go(world: World) -> None:
    world.watcher.pod(pod(name="a"), gone=False)
    world.watcher.pod(pod(name="b"), gone=False)
    assert [p.name for p in world.cache.pods_for("default/hello")] == ["a", "b"]
    world.watcher.pod(pod(name="a"), gone=True)
    world.watcher.pod(pod(name="b"), gone=True)
    assert (world.cache.pods_for("default/hello"), world.cache.pods_of) == ([], {})


def test_a_status_edited_by_hand_is_read_as_far_as_it_goes() -> None:
    good = {"type": "Ready", "status": "True", "lastTransitionTime": "t", "reason": "r", "message": "m"}
    record = facts.function_record(function(status={"replicas": "many", "conditions": [good, {"type": 5}]}))
    assert [condition.type for condition in record.status.conditions] == ["Ready"]
    assert facts.function_record(function(status={"conditions": "none"})).status.conditions == []


def test_a_spec_that_cannot_be_read_keeps_its_reason() -> None:
    raw = function()
    raw["spec"]["timeout"] = "soon"
    record = facts.function_record(raw)
    assert record.function is None
    assert "spec.timeout" in record.invalid


def test_a_field_of_a_newer_crd_is_ignored() -> None:
    raw = function()
    raw["spec"]["surprise"] = 1
    assert facts.function_record(raw).function == facts.function_record(function()).function


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"data": {"a": "1", "b": "2"}}, {"data": {"b": "2", "a": "1"}}, True),
        ({"data": {"a": "1"}}, {"data": {"a": "2"}}, False),
        ({"data": {"a": "1"}}, {"data": {"b": "1"}}, False),
        ({"data": {"a": "1"}}, {"binaryData": {"a": "1"}}, False),
        ({}, {"data": {}}, True),
    ],
)
def test_a_config_maps_hash_is_that_of_its_content(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    digests = {facts.config_map_facts({"metadata": {"name": "c"}, **raw}).digest for raw in (one, other)}
    assert (len(digests) == 1) is same
