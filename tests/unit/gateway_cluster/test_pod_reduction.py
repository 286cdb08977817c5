"""A pod's JSON → what the gateway knows of it."""

from typing import Any

import pytest

from kappa_core import names
from kappa_gateway.cluster.reduction import reduce_pod

CREATED = 1_700_000_000.0


def stamp(second: int) -> str:
    return f"2023-11-14T22:13:{20 + second:02d}Z"


def raw_pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "fn-hello-abc",
            "namespace": "team-a",
            "creationTimestamp": stamp(0),
            "labels": {names.LABEL_FUNCTION: "hello"},
            "annotations": {
                names.ANNOTATION_PORT: "9000",
                names.ANNOTATION_CONCURRENCY: "7",
                names.ANNOTATION_PROTOCOL: "http",
            },
        },
        "status": status,
    }


def condition(kind: str, second: int, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "lastTransitionTime": stamp(second)}


def running(second: int) -> dict[str, Any]:
    return {"state": {"running": {"startedAt": stamp(second)}}}


def test_a_running_pod_is_read_whole() -> None:
    pod = reduce_pod(
        raw_pod(
            podIP="10.1.2.3",
            conditions=[
                condition("PodScheduled", 1),
                condition("PodReadyToStartContainers", 2),
                condition("Ready", 4),
            ],
            containerStatuses=[running(3)],
        )
    )
    assert pod is not None
    assert (pod.namespace, pod.name, pod.function) == ("team-a", "fn-hello-abc", "hello")
    assert (pod.host, pod.port, pod.concurrency, pod.protocol) == ("10.1.2.3", 9000, 7, "http")
    assert "ready" in pod.phases
    assert not pod.terminating
    assert pod.created_at == CREATED
    assert dict(pod.phases) == {
        "created": CREATED,
        "scheduled": CREATED + 1,
        "sandbox": CREATED + 2,
        "started": CREATED + 3,
        "ready": CREATED + 4,
    }


def test_a_pod_that_was_just_made_has_no_address_and_the_defaults() -> None:
    raw = raw_pod()
    raw["metadata"]["annotations"] = None
    raw["status"] = None
    pod = reduce_pod(raw)
    assert pod is not None
    assert (pod.host, pod.port, pod.concurrency, pod.protocol) == (None, names.AGENT_PORT, 1, "lambda")
    assert "ready" not in pod.phases
    assert dict(pod.phases) == {"created": CREATED}


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "70000", "1e3"])
def test_an_annotation_that_makes_no_sense_is_as_good_as_none(text: str) -> None:
    raw = raw_pod()
    raw["metadata"]["annotations"] = {names.ANNOTATION_PORT: text, names.ANNOTATION_CONCURRENCY: text}
    pod = reduce_pod(raw)
    assert pod is not None
    assert (pod.port, pod.concurrency) == (names.AGENT_PORT, 1)


def test_a_condition_that_is_false_is_no_phase() -> None:
    pod = reduce_pod(raw_pod(conditions=[condition("PodScheduled", 1, "False"), condition("Ready", 1, "False")]))
    assert pod is not None
    assert "ready" not in pod.phases
    assert dict(pod.phases) == {"created": CREATED}


def test_with_a_sidecar_the_pod_has_started_when_both_have() -> None:
    pod = reduce_pod(raw_pod(containerStatuses=[running(5), running(3)]))
    assert pod is not None
    assert pod.phases["started"] == CREATED + 5


def test_a_pod_with_a_deletion_timestamp_is_terminating() -> None:
    raw = raw_pod()
    raw["metadata"]["deletionTimestamp"] = stamp(9)
    pod = reduce_pod(raw)
    assert pod is not None
    assert pod.terminating


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_none(phase: str) -> None:
    assert reduce_pod(raw_pod(phase=phase, podIP="10.1.2.3")) is None


def test_a_phase_seen_by_a_watch_is_as_exact_as_the_watch() -> None:
    """Kubernetes truncates to seconds: the event's arrival says where within the second it was."""
    pod = reduce_pod(raw_pod(), seen_at=CREATED + 0.42)
    assert pod is not None
    assert pod.created_at == CREATED + 0.42


@pytest.mark.parametrize(("seen", "kept"), [(-3.0, 0.0), (0.0, 0.0), (0.7, 0.7), (30.0, 1.0)])
def test_a_late_event_or_another_clock_moves_a_phase_by_less_than_its_second(seen: float, kept: float) -> None:
    pod = reduce_pod(raw_pod(), seen_at=CREATED + seen)
    assert pod is not None
    assert pod.phases["created"] == CREATED + kept


def test_a_phase_once_known_stays() -> None:
    first = reduce_pod(raw_pod(), seen_at=CREATED + 0.25)
    second = reduce_pod(raw_pod(conditions=[condition("PodScheduled", 0)]), seen_at=CREATED + 0.5, previous=first)
    assert second is not None
    assert dict(second.phases) == {"created": CREATED + 0.25, "scheduled": CREATED + 0.5}


def test_a_pod_without_the_label_is_an_error_of_the_caller() -> None:
    raw = raw_pod()
    raw["metadata"]["labels"] = {}
    with pytest.raises(KeyError):
        reduce_pod(raw)
