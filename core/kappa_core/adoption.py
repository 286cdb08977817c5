"""The way of a claimed pool pod into its function's Deployment: pure decisions over observed facts.

1. *Free*: it is in the pool. A gateway claims it and sends the `specialize` request.
2. *Taken over*: the operator replaces the pool's labels by the function's, in one write.
3. *Adrift*: no ReplicaSet controls it.
4. *Adopted*: once the function's ReplicaSet wants more pods than it has, the operator gives the pod the ReplicaSet's
   label. The ReplicaSet adopts it, and deletes the pod that it had begun to start.

A pod that cannot go this way is *retired*: deleted with its grace period, so that running invocations can finish.
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
"""How long a specialized pod may go without a gateway that reports its claim: that gateway is gone, or about to
connect."""
ADRIFT_SECONDS: Final = 20.0
"""A pod that the ReplicaSet does not want by then is not needed."""


def is_free(pod: PodFacts, operator: str) -> bool:
    """Whether it is in a pool of the operator of this name and has not been taken over by a function."""
    return bool(pod.pool) and not pod.function and not pod.terminating and pod.operator == operator


def obstacle(pod: PodFacts, claim: Claim, function: Function | None, settings: PoolSettings, image: str) -> str | None:
    """Why the claimed pod can no longer become the function's; None: it can.

    `image` is the image of new pods of the function's runtime.
    """
    if function is None:
        return "its Function is gone"
    if claim.namespace != pod.namespace:
        return "its Function is in another namespace"
    refusal = pool.ineligible(function, settings.memory_limit)
    if refusal is not None:
        return f"its Function no longer uses warm pools: {refusal}"
    if claim.spec_hash != pool.spec_hash(function):
        return "its Function has changed"
    if pod.image != image or pod.pool != function.spec.runtime:
        return "its runtime is not the Function's"
    return None


def takeover(pod: PodFacts, function: Function, revision: str) -> dict[str, Any]:
    """The merge patch that takes `pod` out of its pool. Without the pool's labels the pool's ReplicaSet releases it and
    makes another pod. `revision` is the function's, as on its other pods."""
    return {
        "metadata": {
            # The API server refuses the patch for a later pod of the same name.
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
                # If the pod that the ReplicaSet started is ready first, that one is deleted, not this one.
                names.ANNOTATION_DELETION_COST: "1",
            },
        }
    }


def is_adrift(pod: PodFacts) -> bool:
    """Whether it was taken over, and no ReplicaSet has adopted it yet."""
    return pod.from_pool and not pod.terminating and not (pod.template_hash and pod.controller_uid)


def present(pods: Iterable[PodFacts], settled: Collection[str]) -> int:
    """The number of pods that count against the ReplicaSet's replicas: those from the pool, and those that were ready
    when the first of them came (`settled`, uids). Pods that the ReplicaSet began to start later are not counted: the
    adopted ones replace them."""
    return sum(1 for pod in pods if not pod.terminating and (pod.from_pool or (pod.ready and pod.uid in settled)))


@dataclass(frozen=True, slots=True)
class Plan:
    adopt: tuple[PodFacts, ...] = ()
    """Pods to give the ReplicaSet's label, after the deletion of those to retire, whose places they take."""
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
    """What to do with the pods of a function that are adrift.

    `revision`: the one that the Function asks for now. `adrift_for`: pod uid → seconds. `replica_set`: the Deployment's
    newest; None: not known yet. `settled`: see `present`.
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
    """The ReplicaSet that makes the Deployment's pods now."""
    own = [one for one in replica_sets if one.deployment_uid == deployment_uid]
    return max(own, key=lambda one: one.number, default=None)
