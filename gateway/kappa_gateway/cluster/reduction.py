"""A pod's JSON → `backend.Pod` or `backend.PoolPod`: pure, and alone in knowing which fields the gateway reads."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from kappa_core import names
from kappa_gateway.pods.platform import Pod, PoolPod

_CONDITIONS: Final = {
    "PodScheduled": "scheduled",
    "PodReadyToStartContainers": "sandbox",
    "Ready": "ready",
}
"""Condition type → phase, for conditions that became True (Kubernetes' pod conditions)."""
_ENDED: Final = frozenset({"Succeeded", "Failed"})


def has_ended(raw: Mapping[str, Any]) -> bool:
    """All its containers have ended, and will not start again."""
    return (raw.get("status") or {}).get("phase") in _ENDED


def reduce_pod(raw: Mapping[str, Any], seen_at: float | None = None, previous: Pod | None = None) -> Pod | None:
    """The pod that the gateway knows; None for one that has ended and will never serve again.

    `seen_at` is when a watch brought this state, in seconds since the epoch; None when a list did. Kubernetes truncates
    its timestamps to whole seconds. The true moment of a phase that a watch brought first is no later than `seen_at`
    and less than a second after the timestamp, so that is kept: a cold start takes a third of a second, and the
    timestamps alone would give an error larger than that. `previous` is the same pod as it was last read: a known phase
    stays.

    Raises `KeyError` for JSON that is not a function's pod.
    """
    metadata = raw["metadata"]
    status = raw.get("status") or {}
    if has_ended(raw):
        return None
    annotations = metadata.get("annotations") or {}
    phases = dict(previous.phases) if previous else {}
    for phase, stamp in _stamps(metadata, status).items():
        if phase not in phases and (at := _epoch(stamp)) is not None:
            phases[phase] = at if seen_at is None else min(max(seen_at, at), at + 1.0)
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        function=metadata["labels"][names.LABEL_FUNCTION],
        host=status.get("podIP") or None,
        port=_number(annotations.get(names.ANNOTATION_PORT), names.AGENT_PORT, 65535),
        concurrency=_number(annotations.get(names.ANNOTATION_CONCURRENCY), 1, 1000),
        protocol=_protocol(annotations.get(names.ANNOTATION_PROTOCOL)),
        terminating=bool(metadata.get("deletionTimestamp")),
        created_at=phases.get("created"),
        phases=phases,
    )


def reduce_pool_pod(raw: Mapping[str, Any]) -> PoolPod | None:
    """A pool pod; None for one that has ended or is terminating. Raises `KeyError` for JSON that is not one."""
    metadata = raw["metadata"]
    status = raw.get("status") or {}
    annotations = metadata.get("annotations") or {}
    if has_ended(raw) or metadata.get("deletionTimestamp"):
        return None
    return PoolPod(
        namespace=metadata["namespace"],
        runtime=metadata["labels"][names.LABEL_POOL],
        name=metadata["name"],
        uid=metadata["uid"],
        host=status.get("podIP") or None,
        port=_number(annotations.get(names.ANNOTATION_PORT), names.AGENT_PORT, 65535),
        created_at=_epoch(metadata.get("creationTimestamp")),
        leaving=annotations.get(names.ANNOTATION_DELETION_COST, "").startswith("-"),
    )


def _stamps(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    stamps = {"created": metadata.get("creationTimestamp")}
    for condition in status.get("conditions") or ():
        phase = _CONDITIONS.get(condition.get("type"))
        if phase and condition.get("status") == "True":
            stamps[phase] = condition.get("lastTransitionTime")
    for container in status.get("containerStatuses") or ():
        running = (container.get("state") or {}).get("running")
        # a sidecar agent starts beside the user's container: the later of the two is when the pod can serve
        if running and running.get("startedAt"):
            stamps["started"] = max(running["startedAt"], stamps.get("started") or "")
    return stamps


def _epoch(stamp: object) -> float | None:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp() if stamp else None
    except ValueError:
        return None


def _number(text: object, default: int, maximum: int) -> int:
    """An annotation's number; somebody's typo in it must not take the pod out of service."""
    try:
        number = int(str(text))
    except ValueError:
        return default
    return number if 1 <= number <= maximum else default


def _protocol(text: object) -> Literal["lambda", "http"]:
    return "http" if text == "http" else "lambda"
