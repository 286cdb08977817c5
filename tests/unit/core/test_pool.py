"""Warm pools: who may use one, how large it is, and which gateway claims its pods."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import names, pool
from kappa_core.function import Function
from kappa_core.observed import PodFacts, pod_facts
from kappa_core.pool import PoolSettings

SETTINGS = PoolSettings(size=2, public_key="a2V5")


def function(name: str = "hello", namespace: str = "default", **spec: Any) -> Function:
    given: dict[str, Any] = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x = 1"}, **spec}
    if "image" in given["code"]:
        del given["runtime"], given["handler"]
    return Function.model_validate(
        {
            "apiVersion": "kappa.run/v1alpha1",
            "kind": "Function",
            "metadata": {"name": name, "namespace": namespace},
            "spec": given,
        }
    )


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"memory": "512Mi", "cpu": "2", "timeout": "1h", "scaling": {"minReplicas": 1}},
        {"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "$(A)y, $$(C), $D, 5$"}]},
        {"env": [{"name": "TZ", "value": "Europe/Vienna"}]},
        {"code": {"archive": {"url": "https://example.com/a.zip", "sha256": "0" * 64}}},
    ],
)
def test_who_uses_the_pool(spec: dict[str, Any]) -> None:
    start = pool.cold_start(function(**spec), SETTINGS)
    assert start.path == "Pool"
    assert start.reason == "A cold start claims a warm python3.13 pod."


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"code": {"image": {"ref": "a/b:1"}}}, "spec.code.image"),
        ({"code": {"configMap": {"name": "code"}}}, "spec.code.configMap"),
        ({"runtime": "nodejs20"}, "spec.runtime nodejs20"),
        ({"serviceAccountName": "robot"}, "spec.serviceAccountName"),
        ({"podTemplate": {"nodeSelector": {"a": "b"}}}, "spec.podTemplate.nodeSelector"),
        ({"podTemplate": {"labels": {"team": "a"}}}, "spec.podTemplate.labels"),
        ({"envFrom": [{"secretRef": {"name": "s"}}]}, "spec.envFrom"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, "spec.env A: valueFrom"),
        ({"env": [{"name": "PYTHONHASHSEED", "value": "0"}]}, "spec.env PYTHONHASHSEED"),
        ({"env": [{"name": "LD_PRELOAD", "value": "x.so"}]}, "spec.env LD_PRELOAD"),
        ({"env": [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "1"}]}, "spec.env A refers to $(B)"),
        ({"memory": "513Mi"}, "spec.memory 513Mi is above the pool pods' limit of 512Mi"),
    ],
)
def test_who_does_not_and_why(spec: dict[str, Any], names: str) -> None:
    start = pool.cold_start(function(**spec), SETTINGS)
    assert start.path == "Deployment"
    assert names in start.reason
    assert start.reason.endswith(".")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (PoolSettings(size=2), "warm pools are off in this installation"),
        (PoolSettings(public_key="a2V5"), "warm pools are off in this installation"),
        (PoolSettings(size=1, runtimes={"python3.13": 0}, public_key="a2V5"), "the pool of python3.13 has size 0"),
        (
            PoolSettings(size=1, namespaces={"default": {"python3.13": 0}}, public_key="a2V5"),
            "in the namespace 'default'",
        ),
    ],
)
def test_a_pool_that_is_off_says_so(settings: PoolSettings, says: str) -> None:
    start = pool.cold_start(function(), settings)
    assert (start.path, says in start.reason) == ("Deployment", True)


def test_a_namespace_overrules_a_runtime_and_that_the_default() -> None:
    settings = PoolSettings(size=1, runtimes={"python3.13": 3}, namespaces={"a": {"python3.13": 5}}, public_key="a2V5")
    assert [settings.size_for("a", "python3.13"), settings.size_for("b", "python3.13")] == [5, 3]
    assert [settings.size_for("a", "python3.14"), settings.size_for("b", "python3.14")] == [1, 1]


def test_variables_are_resolved_as_the_kubelet_does() -> None:
    values = {"A": "x", "B": "$(A)-$$(A)-$A-$$$(A)-$(A)$(A)", "C": "$(B)$", "D": "$()", "E": ""}
    env = [{"name": name, "value": value} for name, value in values.items() if name != "D"]
    assert pool.environment(function(env=env)) == {
        "A": "x",
        "B": "x-$(A)-$A-$x-xx",
        "C": "x-$(A)-$A-$x-xx$",
        "E": "",
    }


def test_the_spec_hash_changes_with_what_pods_are_made_of() -> None:
    base = pool.spec_hash(function())
    same = function(scaling={"maxReplicas": 3}, timeout="30s", **{"async": {"maxAttempts": 1}})
    assert pool.spec_hash(same) == base
    assert pool.spec_hash(function(name="other", namespace="x")) == base
    others = [{"timeout": "31s"}, {"memory": "64Mi"}, {"env": [{"name": "A", "value": "1"}]}, {"code": {"inline": "y"}}]
    assert len({pool.spec_hash(function(**other)) for other in others} | {base}) == 5


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.floats(0, 1000)), st.floats(0, 2000))
def test_a_pool_grows_with_claims_and_shrinks_when_they_end(
    base: int, most: int, claims: list[float], now: float
) -> None:
    size = pool.target_size(now, base, claims, most)
    if not base:
        assert size == 0
        return
    assert base <= size <= max(base, most)
    assert size <= pool.target_size(now, base, [*claims, now], most)
    assert pool.target_size(now, base, [now - pool.CLAIM_WINDOW] * len(claims), most) == base
    assert pool.target_size(2000 + pool.CLAIM_WINDOW, base, claims, most) == base


def free_pod(name: str, ready: bool, marked: bool) -> PodFacts:
    annotations = {names.ANNOTATION_DELETION_COST: "-1"} if marked else {}
    labels = {names.LABEL_POOL: "python3.13"}
    return pod_facts(
        {
            "metadata": {"name": name, "namespace": "x", "uid": name, "labels": labels, "annotations": annotations},
            "spec": {"containers": [{"name": "function", "image": "runtime:1"}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}]},
        }
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans())), st.integers(-2, 12))
def test_marked_are_in_the_end_those_that_the_replica_set_deletes(kinds: list[tuple[bool, bool]], surplus: int) -> None:
    pods = {str(number): free_pod(str(number), *kind) for number, kind in enumerate(kinds)}
    mark, spare = pool.leaving(pods.values(), surplus)
    marked = {name for name, pod in pods.items() if pod.deletion_cost < 0}
    marked = (marked | {pod.name for pod in mark}) - {pod.name for pod in spare}
    assert len(marked) == min(max(surplus, 0), len(pods))
    by_replica_set = sorted(pods, key=lambda name: (pods[name].ready, name not in marked))
    assert set(by_replica_set[: len(marked)]) == marked
    # once that is seen, nothing is left to do
    now = [free_pod(name, pod.ready, name in marked) for name, pod in pods.items()]
    assert pool.leaving(now, surplus) == ([], [])


@given(st.sets(st.text(min_size=1), min_size=2, max_size=8), st.text())
def test_a_gateway_that_goes_moves_only_its_own_functions(gateways: set[str], key: str) -> None:
    owner = pool.owner(key, gateways)
    for gone in gateways:
        moved = pool.owner(key, gateways - {gone})
        assert (moved == owner) == (gone != owner)


def test_the_functions_are_shared_out_evenly() -> None:
    gateways = ["gateway-a", "gateway-b", "gateway-c"]
    owners = [pool.owner(f"default/f{number}", gateways) for number in range(300)]
    assert all(owners.count(gateway) > 60 for gateway in gateways)
