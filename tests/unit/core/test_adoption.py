"""The way of a claimed pool pod into its function's Deployment."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import adoption, names, pool
from kappa_core.demand import Claim
from kappa_core.function import Function
from kappa_core.observed import PodFacts, ReplicaSetFacts, pod_facts, replica_set_facts
from kappa_core.pool import PoolSettings

SETTINGS = PoolSettings(size=2, public_key="a2V5")
REVISION = "1"
REPLICA_SET = ReplicaSetFacts(uid="rs", deployment_uid="d", template_hash="abc", number=2, replicas=1)


def function(**spec: Any) -> Function:
    given = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x = 1"}, **spec}
    metadata = {"name": "hello", "namespace": "default"}
    return Function.model_validate(
        {"apiVersion": "kappa.run/v1alpha1", "kind": "Function", "metadata": metadata, "spec": given}
    )


def raw_pod(name: str = "p", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", **metadata},
        "spec": {
            "containers": [{"name": "function", "image": "runtime:1", "resources": {"limits": {"memory": "512Mi"}}}]
        },
        "status": {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"state": {"running": {}}, "restartCount": 1}],
        },
    }


def free_pod(name: str = "p") -> PodFacts:
    return pod_facts(raw_pod(name, labels={names.LABEL_POOL: "python3.13", names.POD_TEMPLATE_HASH: "pool"}))


def pod(name: str, *, adrift: bool = False, from_pool: bool = False, **changes: Any) -> PodFacts:
    whose = {"template_hash": "", "controller_uid": ""} if adrift else {"template_hash": "abc", "controller_uid": "rs"}
    facts = replace(
        free_pod(name), pool="", function="hello", from_pool=from_pool or adrift, revision=REVISION, **whose
    )  # type: ignore[arg-type]
    return replace(facts, **changes)


def plan(pods: list[PodFacts], replicas: int = 1, most: int = 10, age: float = 0.0, settled: Any = ()) -> adoption.Plan:
    ages = {one.uid: age for one in pods}
    return adoption.plan(pods, replace(REPLICA_SET, replicas=replicas), REVISION, most, ages, settled)


def claim(of: Function, **changes: str) -> Claim:
    values = {
        "namespace": "default",
        "function": "hello",
        "pod": "p",
        "pod_uid": "uid-p",
        "spec_hash": pool.spec_hash(of),
    }
    return Claim(**{**values, **changes})


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (None, "its Function is gone"),
        (function(timeout="7s"), "its Function has changed"),
        (function(serviceAccountName="robot"), "no longer uses warm pools: spec.serviceAccountName"),
        (function(runtime="python3.14"), "its Function has changed"),
    ],
)
def test_what_stands_in_a_pods_way(now: Function | None, why: str) -> None:
    obstacle = adoption.obstacle(free_pod(), claim(function()), now, SETTINGS, "runtime:1")
    assert obstacle is not None
    assert why in obstacle


def test_a_pod_of_an_earlier_image_or_for_another_namespace_is_not_taken_over() -> None:
    hello = function(scaling={"maxReplicas": 3})
    assert adoption.obstacle(free_pod(), claim(function()), hello, SETTINGS, "runtime:1") is None
    assert (
        adoption.obstacle(free_pod(), claim(hello), hello, SETTINGS, "runtime:2") == "its runtime is not the Function's"
    )
    other = claim(hello, namespace="other")
    assert adoption.obstacle(free_pod(), other, hello, SETTINGS, "runtime:1") == "its Function is in another namespace"


def test_a_takeover_leaves_nothing_of_the_pool() -> None:
    before = raw_pod(labels={names.LABEL_POOL: "python3.13", names.POD_TEMPLATE_HASH: "x"})
    patch = adoption.takeover(pod_facts(before), function(), REVISION)["metadata"]
    assert patch["uid"] == "uid-p"
    assert patch["annotations"][names.ANNOTATION_CONCURRENCY] == "1"
    wide = adoption.takeover(pod_facts(before), function(concurrency=5), REVISION)["metadata"]
    assert wide["annotations"][names.ANNOTATION_CONCURRENCY] == "5"
    labels = {**before["metadata"]["labels"], **patch["labels"]}
    after = raw_pod(labels={k: v for k, v in labels.items() if v is not None}, annotations=patch["annotations"])
    facts = pod_facts(after)
    assert (facts.function, facts.pool, facts.template_hash, facts.revision) == ("hello", "", "", REVISION)
    assert adoption.is_adrift(facts)
    assert not facts.relapsed
    after["status"]["containerStatuses"][0]["restartCount"] += 1
    assert pod_facts(after).relapsed


def test_a_pod_is_adopted_when_the_replica_set_wants_one_more() -> None:
    adrift = pod("a", adrift=True)
    assert plan([adrift], replicas=0) == adoption.Plan()
    assert plan([adrift], replicas=1) == adoption.Plan(adopt=(adrift,))
    assert plan([adrift, pod("b")], replicas=1, settled={"uid-b"}) == adoption.Plan()
    assert plan([adrift, pod("b")], replicas=2, settled={"uid-b"}) == adoption.Plan(adopt=(adrift,))
    assert plan([adrift, pod("b", from_pool=True)], replicas=1) == adoption.Plan()


@pytest.mark.parametrize("ready", [True, False])
def test_what_was_started_in_its_place_does_not_take_it(ready: bool) -> None:
    adrift = pod("a", adrift=True)
    assert plan([adrift, pod("twin", ready=ready)]) == adoption.Plan(adopt=(adrift,))


def test_a_pod_that_waits_for_its_replica_set_is_not_labelled_twice() -> None:
    labelled = pod("a", adrift=True, template_hash="abc")
    assert plan([labelled]) == adoption.Plan()
    assert plan([labelled, pod("b", adrift=True)]) == adoption.Plan()
    assert plan([labelled], age=adoption.ADRIFT_SECONDS).retire == (
        (labelled, "its Function's ReplicaSet does not want it"),
    )


def test_a_pod_with_a_former_replica_sets_label_gets_the_new_one() -> None:
    adrift = pod("a", adrift=True, template_hash="old")
    assert plan([adrift]) == adoption.Plan(adopt=(adrift,))


@pytest.mark.parametrize(
    ("one", "kwargs", "why"),
    [
        (pod("a", adrift=True, revision="0"), {}, "its Function has changed"),
        (pod("a", adrift=True), {"most": 0}, "maxReplicas leaves no room for it"),
        (pod("a", adrift=True), {"replicas": 0, "age": adoption.ADRIFT_SECONDS}, "does not want it"),
    ],
)
def test_who_is_retired(one: PodFacts, kwargs: dict[str, Any], why: str) -> None:
    ((retired, reason),) = plan([one], **kwargs).retire
    assert retired == one
    assert why in reason


def test_without_a_replica_set_it_waits_and_then_goes() -> None:
    adrift = pod("a", adrift=True)
    assert adoption.plan([adrift], None, REVISION, 5, {}, ()) == adoption.Plan()
    assert adoption.plan([adrift], None, REVISION, 5, {adrift.uid: adoption.ADRIFT_SECONDS}, ()).retire


PODS = st.lists(
    st.builds(
        lambda adrift, from_pool, ready, terminating, old, hash_: {
            "adrift": adrift, "from_pool": from_pool, "ready": ready, "terminating": terminating,
            "revision": "0" if old else REVISION, **({"template_hash": hash_} if adrift else {}),
        },
        st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "abc", "old"]),
    ),
    max_size=12,
)  # fmt: skip


@given(PODS, st.integers(0, 12), st.integers(0, 12), st.floats(0, 60), st.sets(st.integers(0, 11)))
def test_no_more_are_adopted_than_fit_and_nothing_but_what_is_adrift_is_touched(
    shapes: list[dict[str, Any]], replicas: int, most: int, age: float, settled: set[int]
) -> None:
    pods = [pod(f"p{number}", **shape) for number, shape in enumerate(shapes)]
    uids = {f"uid-p{number}" for number in settled}
    decided = plan(pods, replicas, most, age, uids)
    retired = [one for one, _ in decided.retire]
    assert not set(decided.adopt) & set(retired)
    assert len({one.uid for one in retired}) == len(retired)
    assert all(adoption.is_adrift(one) for one in (*decided.adopt, *retired))
    assert all(one.revision == REVISION for one in decided.adopt)
    labelled = [one for one in pods if one.template_hash == "abc" and one not in retired]
    if decided.adopt:
        assert adoption.present(labelled, uids) + len(decided.adopt) <= replicas
    if age >= adoption.ADRIFT_SECONDS:
        assert {one for one in pods if adoption.is_adrift(one)} == {*decided.adopt, *retired}
    # Once what was decided is done, nothing is left to do at this moment.
    done = {one.uid: replace(one, template_hash="abc", controller_uid="rs") for one in decided.adopt}
    left = [done.get(one.uid, one) for one in pods if one not in retired]
    assert plan(left, replicas, most, age, uids) == adoption.Plan()


def test_the_newest_replica_set_of_a_deployment() -> None:
    def raw(uid: str, owner: str, number: str) -> dict[str, Any]:
        metadata = {
            "uid": uid,
            "labels": {names.POD_TEMPLATE_HASH: uid},
            "annotations": {"deployment.kubernetes.io/revision": number},
        }
        return {
            "metadata": {**metadata, "ownerReferences": [{"uid": owner, "controller": True}]},
            "spec": {"replicas": 3},
        }

    facts = [
        replica_set_facts(raw(*one)) for one in [("a", "d", "9"), ("b", "d", "10"), ("c", "e", "11"), ("f", "d", "")]
    ]
    newest = adoption.newest(facts, "d")
    assert newest is not None
    assert (newest.uid, newest.replicas, newest.template_hash) == ("b", 3, "b")
    assert adoption.newest(facts, "x") is None
