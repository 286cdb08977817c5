"""What becomes of a pool pod that a gateway made a function's: pure decisions over what is observed.

free → (a gateway specializes it) → *taken over*: the function's labels in place of the pool's, in one write → *adrift*:
no ReplicaSet controls it → once the function's ReplicaSet wants a pod more than it has, it gets the ReplicaSet's own
label → *adopted*, and the ReplicaSet deletes the pod that it had begun to start in its place.

A pod that cannot go this way is *retired*: deleted, with its grace period, so that what runs in it ends well.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kappa_core import manifests, names, pool
from kappa_core.demand import Claim
from kappa_core.function import Function
from kappa_core.observed import PodFacts, ReplicaSetFacts
from kappa_core.pool import PoolSettings

UNCLAIMED_SECONDS: Final = 10.0
"""A specialized pod that no gateway speaks for: its gateway is gone, or about to tell its claims to this operator."""
ADRIFT_SECONDS: Final = 20.0
"""A pod that no ReplicaSet has come to want by then is not needed."""


def is_free(pod: PodFacts, operator: str) -> bool:
    """Whether it is in a pool of the operator of this name, taken over by no function."""
    return bool(pod.pool) and not pod.function and not pod.terminating and pod.operator == operator


def obstacle(pod: PodFacts, claim: Claim, function: Function | None, settings: PoolSettings, image: str) -> str | None:
    """Why the pod that `claim` names cannot be the function's any more; None if nothing speaks against it.

    `image` is the one that new pods of the function's runtime have.
    """
    if function is None:
        return "its Function is gone"
    if claim.namespace != pod.namespace:
        return "its Function is in another namespace"
    refusal = pool.ineligible(function, settings.memory_limit)
    if refusal is not None:
        return f"its Function does not use warm pods any more: {refusal}"
    if claim.spec_hash != pool.spec_hash(function):
        return "its Function has changed"
    if pod.image != image or pod.pool != function.spec.runtime:
        return "its runtime is not the Function's"
    return None


def takeover(pod: PodFacts, function: Function, revision: str) -> dict[str, Any]:
    """The merge patch that takes `pod` out of its pool: without the pool's labels its ReplicaSet lets it go and makes
    another one. `revision` is the hash of the function's pod template, as on its other pods."""
    return {
        "metadata": {
            # A pod of the same name that came since is not written to.
            "uid": pod.uid,
            "labels": {
                names.LABEL_POOL: None,
                names.POD_TEMPLATE_HASH: None,
                **manifests.own_labels(function.metadata.name),
            },
            "annotations": {
                names.ANNOTATION_FROM_POOL: str(pod.restarts),
                names.ANNOTATION_REVISION: revision,
                names.ANNOTATION_CONCURRENCY: str(function.spec.concurrency),
                # Dearer than the pod that was started in its place, should that be ready first.
                names.ANNOTATION_DELETION_COST: "1",
            },
        }
    }


def is_adrift(pod: PodFacts) -> bool:
    """Whether it was taken over, and no ReplicaSet has adopted it yet."""
    return pod.from_pool and not pod.terminating and not (pod.template_hash and pod.controller_uid)


def present(pods: Iterable[PodFacts], settled: Collection[str]) -> int:
    """Pods that have a claim to a place: those from the pool, and those that were ready (uids: `settled`) when the first
    of these came. What the ReplicaSet has begun to start since then, it starts in their place."""
    return sum(1 for pod in pods if not pod.terminating and (pod.from_pool or (pod.ready and pod.uid in settled)))


@dataclass(frozen=True, slots=True)
class Plan:
    adopt: tuple[PodFacts, ...] = ()
    """Give them the ReplicaSet's label, once those to retire are on their way: they take their places."""
    retire: tuple[tuple[PodFacts, str], ...] = ()
    """(pod, why)."""


def plan(
    pods: Collection[PodFacts],
    replica_set: ReplicaSetFacts | None,
    revision: str,
    max_replicas: int,
    adrift_for: Mapping[str, float],
    settled: Collection[str],
) -> Plan:
    """What to do with those of a function's `pods` that are adrift.

    `revision`: of the pod template that the function calls for now. `adrift_for`: pod uid → seconds. `replica_set`: the
    Deployment's newest, None where it is not known yet. `settled`: see `present`.
    """
    adrift = sorted((pod for pod in pods if is_adrift(pod)), key=lambda pod: pod.name)
    retire = [(pod, "its Function has changed") for pod in adrift if pod.revision != revision]
    adrift = [pod for pod in adrift if pod.revision == revision]
    room = max(0, max_replicas - present((pod for pod in pods if not is_adrift(pod)), settled))
    retire += [(pod, "maxReplicas leaves no room for it") for pod in adrift[room:]]
    adrift = adrift[:room]
    adopt: list[PodFacts] = []
    if replica_set is not None and replica_set.template_hash:
        leaving = {pod.uid for pod, _ in retire}
        own = [pod for pod in pods if pod.template_hash == replica_set.template_hash and pod.uid not in leaving]
        free = max(0, replica_set.replicas - present(own, settled))
        adopt = [pod for pod in adrift if pod.template_hash != replica_set.template_hash][:free]
    late = [pod for pod in adrift if pod not in adopt and adrift_for.get(pod.uid, 0.0) >= ADRIFT_SECONDS]
    retire += [(pod, "its Function's ReplicaSet does not want it") for pod in late]
    return Plan(tuple(adopt), tuple(retire))


def newest(replica_sets: Iterable[ReplicaSetFacts], deployment_uid: str) -> ReplicaSetFacts | None:
    """The one that the Deployment's pods come from now."""
    own = [one for one in replica_sets if one.deployment_uid == deployment_uid]
    return max(own, key=lambda one: one.number, default=None)
