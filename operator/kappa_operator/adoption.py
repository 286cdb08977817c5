"""Claimed pool pods: taken out of their pool, then adopted by the Functions' ReplicaSets.

Each step follows from what is observed, so an operator that is killed between any two continues where it was. The steps
are those of `kappa_core.adoption`.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from kappa_core import adoption, names
from kappa_core.adoption import Plan
from kappa_core.demand import Claim
from kappa_core.durations import parse_quantity
from kappa_core.function import Function
from kappa_core.manifests import Platform
from kappa_core.observed import DeploymentFacts, PodFacts, ReplicaSetFacts, replica_set_facts
from kappa_core.pool import PoolSettings
from kappa_core.pool_manifest import resources
from kappa_kube import paths
from kappa_kube.connection import Json
from kappa_kube.errors import ApiError
from kappa_operator.cache import Cache, FunctionRecord, pod_record

logger = logging.getLogger(__name__)

WAIT: Final = 0.25
"""Seconds until a Function with an unadopted pod is reconciled again, if no event comes before."""
RESIZE_RETRY: Final = 60.0


class Writer(Protocol):
    """The part of `kappa_kube.client.Client` that adoption needs."""

    async def get(self, path: str, **query: str) -> Json: ...
    async def merge_patch(self, path: str, body: Json) -> Json: ...
    async def strategic_patch(self, path: str, body: Json) -> Json: ...


class Scaling(Protocol):
    def taken_over(self, key: str, pods: int) -> None: ...


class Confirmed(Protocol):
    def confirmed(self, function_key: str) -> list[tuple[PodFacts, Claim]]: ...
    def settled(self, pod_uid: str) -> None: ...


Retire = Callable[[PodFacts, str], Awaitable[None]]
"""Deletes a pod, for a reason. Raises `RequestFailed`."""


class Deleter(Protocol):
    async def delete(self, path: str, uid: str) -> None: ...


class Retirement:
    """Deletes pool pods that no Function can use, with their grace period, so that an invocation in one can finish."""

    def __init__(self, api: Deleter, observe: Callable[[str], None] = lambda outcome: None) -> None:
        self._api = api
        self._observe = observe

    async def __call__(self, pod: PodFacts, why: str) -> None:
        await self._api.delete(paths.item(paths.PODS, pod.namespace, pod.name), pod.uid)
        self._observe("retired")
        logger.info("a pool pod is retired", extra={"pod": f"{pod.namespace}/{pod.name}", "reason": why})


@dataclass(slots=True)
class _Memory:
    """Losing it (a restart) costs one pod too many, for a while."""

    settled: frozenset[str]
    """Uids of the pods that were ready when the first unadopted pod came."""
    since: dict[str, float] = field(default_factory=dict)
    """Uid of an unadopted pod → when it was first seen."""


class Adoption:
    """`adopt` is a step of reconciling a Function, `abandon` of one that is gone."""

    def __init__(
        self,
        api: Writer,
        cache: Cache,
        platform: Platform,
        settings: PoolSettings,
        scaler: Scaling,
        claims: Confirmed,
        retire: Retire,
        observe: Callable[[str], None] = lambda outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._cache = cache
        self._platform = platform
        self._settings = settings
        self._scaler = scaler
        self._claims = claims
        self._retire_pod = retire
        self._observe = observe
        self._clock = clock
        self._memory: dict[str, _Memory] = {}
        """Function key → what is remembered while it has unadopted pods."""
        self._resize_after: dict[str, dict[str, float]] = {}
        """Function key → pod uid → when a refused resize is tried again."""

    async def adopt(
        self,
        key: str,
        record: FunctionRecord,
        deployment: DeploymentFacts | None,
        revision: str,
    ) -> float | None:
        """Take the Function's claimed pods a step further; seconds after which to reconcile again. Raises `KubeError`.

        `revision` is the Function's present one; empty where it has no pod template.
        """
        for pod, claim in self._claims.confirmed(key):
            await self._take_over(pod, claim, record.function, revision)
        pods = self._cache.pods_for(key)
        if record.function is not None:
            await self._resize(key, pods, record.function, revision)
        unadopted = [pod for pod in pods if self._is_unadopted(pod)]
        if not unadopted:
            self._memory.pop(key, None)
            return None
        memory = self._memory.get(key)
        if memory is None:
            memory = self._memory[key] = _Memory(settled=frozenset(pod.uid for pod in pods if pod.ready))
        now = self._clock()
        memory.since = {pod.uid: memory.since.get(pod.uid, now) for pod in unadopted}
        current = [pod for pod in pods if pod.revision == revision]
        self._scaler.taken_over(key, adoption.present(current, memory.settled))
        replica_set = await self._replica_set(record, deployment)
        max_replicas = record.function.spec.scaling.max_replicas if record.function is not None else 0
        ages = {uid: now - first for uid, first in memory.since.items()}
        plan = adoption.plan(pods, replica_set, revision, max_replicas, ages, memory.settled)
        await self._carry_out(plan, replica_set.template_hash if replica_set is not None else "")
        return WAIT if any(self._is_unadopted(pod) for pod in self._cache.pods_for(key)) else None

    async def abandon(self, key: str) -> None:
        """The Function is gone: retire its pods that no ReplicaSet controls. Raises `KubeError`."""
        self._memory.pop(key, None)
        self._resize_after.pop(key, None)
        for pod, _ in self._claims.confirmed(key):
            await self._retire(pod, "its Function is gone")
        for pod in self._cache.pods_for(key):
            if self._is_unadopted(pod):
                await self._retire(pod, "its Function is gone")

    async def _retire(self, pod: PodFacts, why: str) -> None:
        await self._retire_pod(pod, why)
        self._claims.settled(pod.uid)

    def _is_unadopted(self, pod: PodFacts) -> bool:
        return adoption.is_adrift(pod) and pod.operator == self._settings.operator

    async def _take_over(self, pod: PodFacts, claim: Claim, function: Function | None, revision: str) -> None:
        runtime = self._platform.runtimes.get(pod.pool)
        why = adoption.obstacle(pod, claim, function, self._settings, runtime.image if runtime else "")
        if why is None and not revision:
            why = "its Function has no Deployment"
        if why is not None or function is None:
            await self._retire(pod, why or "its Function is gone")
            return
        if await self._patch(pod, adoption.takeover(pod, function, revision)):
            self._observe("taken_over")
            logger.info("a pool pod is taken over", extra={"function": function.key, "pod": pod.name})
        self._claims.settled(pod.uid)

    async def _replica_set(self, record: FunctionRecord, deployment: DeploymentFacts | None) -> ReplicaSetFacts | None:
        """The Function's newest; None until the Deployment has passed its replicas on."""
        if deployment is None or not deployment.replicas or deployment.observed_generation < deployment.generation:
            return None
        query = {"labelSelector": f"{names.LABEL_FUNCTION}={record.name}"}
        page = await self._api.get(paths.collection(paths.REPLICA_SETS, record.namespace), **query)
        return adoption.newest(map(replica_set_facts, page["items"]), deployment.uid)

    async def _carry_out(self, plan: Plan, template_hash: str) -> None:
        for pod, why in plan.retire:
            await self._retire(pod, why)
        for pod in plan.adopt:
            body = {"metadata": {"uid": pod.uid, "labels": {names.POD_TEMPLATE_HASH: template_hash}}}
            if await self._patch(pod, body):
                self._observe("adopted")
                logger.info("a pool pod is adopted", extra={"pod": f"{pod.namespace}/{pod.name}"})

    async def _resize(self, key: str, pods: Collection[PodFacts], function: Function, revision: str) -> None:
        """To the function's own memory and cpu. Best effort: a node that is too full leaves the pod as it is."""
        again = self._resize_after.pop(key, {})
        for pod in pods:
            if not pod.from_pool or pod.terminating or pod.revision != revision or _has_limits(pod, function):
                continue
            if self._clock() < again.get(pod.uid, 0.0):
                self._resize_after.setdefault(key, {})[pod.uid] = again[pod.uid]
                continue
            container = {"name": names.CONTAINER_FUNCTION, "resources": resources(function)}
            path = paths.item(paths.PODS, pod.namespace, pod.name, "resize")
            try:
                answer = await self._api.strategic_patch(path, {"spec": {"containers": [container]}})
            except ApiError as error:
                self._resize_after.setdefault(key, {})[pod.uid] = self._clock() + RESIZE_RETRY
                if error.status != 404:
                    logger.warning(
                        "a pod that was taken from a pool cannot be resized, and keeps the pool's memory limit",
                        extra={"pod": f"{pod.namespace}/{pod.name}", "error": str(error)},
                    )
                continue
            self._cache.put_pod(f"{pod.namespace}/{pod.name}", pod_record(answer))

    async def _patch(self, pod: PodFacts, body: Json) -> bool:
        """False if the pod is gone. Raises `KubeError`."""
        try:
            answer = await self._api.merge_patch(paths.item(paths.PODS, pod.namespace, pod.name), body)
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        self._cache.put_pod(f"{pod.namespace}/{pod.name}", pod_record(answer))
        return True


def _has_limits(pod: PodFacts, function: Function) -> bool:
    memory, cpu = pod.limits
    spec = function.spec
    return (
        memory != ""
        and parse_quantity(memory) == parse_quantity(spec.memory)
        and bool(cpu) == bool(spec.cpu)
        and (not spec.cpu or parse_quantity(cpu) == parse_quantity(spec.cpu))
    )
