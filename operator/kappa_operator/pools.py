"""The warm pools' Deployments: created, sized and removed, level-triggered.

A pool exists while its namespace has a Function that uses it. What is remembered here only saves calls: which Functions
use which pool follows from the cache, and a restarted operator finds unused pools among the Deployments. A pool's
replicas come with the apply, unlike a Function's: nothing else scales it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from kappa_core import adoption, manifests, names, pool
from kappa_core.manifests import Platform
from kappa_core.observed import DeploymentFacts, deployment_facts
from kappa_core.pool import PoolSettings
from kappa_core.pool_manifest import pool_deployment, pool_deployment_name
from kappa_kube import paths
from kappa_kube.connection import Json
from kappa_kube.errors import ApiError
from kappa_operator.cache import Cache, pod_record, pool_key

logger = logging.getLogger(__name__)

LINGER_SECONDS: Final = 10.0
"""An unused pool stays so long: its Function may be about to be created again."""
MOST_CLAIMS: Final = 1000
LEAVE_SECONDS: Final = 1.0
"""How long gateways have to see that they must not claim a pod any more, before its ReplicaSet may delete it."""


class Writer(Protocol):
    """The part of `kappa_kube.client.Client` that pools need."""

    async def get(self, path: str) -> Json: ...
    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json: ...
    async def merge_patch(self, path: str, body: Json) -> Json: ...
    async def delete(self, path: str, uid: str) -> None: ...


class Pools:
    """Keys are `namespace/runtime`. `enqueue` puts one on the queue that calls `reconcile`."""

    def __init__(
        self,
        api: Writer,
        cache: Cache,
        platform: Platform,
        settings: PoolSettings,
        enqueue: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._cache = cache
        self._platform = platform
        self._settings = settings
        self._enqueue = enqueue
        self._clock = clock
        self._pool_of: dict[str, str] = {}
        """Function key → the pool that it uses."""
        self._users: dict[str, set[str]] = {}
        """Pool → the Functions that use it."""
        self._claims: dict[str, deque[float]] = {}
        self._unused_since: dict[str, float] = {}
        self._applied: dict[str, tuple[str, str]] = {}
        """Pool → hash of the manifest last applied, the Deployment's digest after that."""
        self._leaving_since: dict[str, float] = {}
        """Pool → when the last of the pods to be removed was marked."""

    def look(self, function_key: str) -> None:
        """The Function may have been created, changed or deleted."""
        record = self._cache.functions.get(function_key)
        key = None
        if record is not None and record.function is not None and not record.deleting:
            runtime = record.function.spec.runtime or ""
            uses = pool.cold_start(record.function, self._settings).path == "Pool"
            if uses and runtime in self._platform.runtimes:
                key = pool_key(record.namespace, runtime)
        before = self._pool_of.get(function_key)
        if key == before:
            return
        if before is not None:
            del self._pool_of[function_key]
            self._users[before].discard(function_key)
            if not self._users[before]:
                del self._users[before]
                self._enqueue(before)
        if key is not None:
            self._pool_of[function_key] = key
            users = self._users.setdefault(key, set())
            users.add(function_key)
            if len(users) == 1:
                self._enqueue(key)

    def relisted(self) -> None:
        """Everything was listed: check all Functions and all pools."""
        for function_key in set(self._cache.functions) | set(self._pool_of):
            self.look(function_key)
        for key in set(self._cache.pools) | set(self._users):
            self._enqueue(key)

    def claimed(self, namespace: str, runtime: str) -> None:
        """A gateway has claimed a pod: for a minute the pool keeps one more."""
        key = pool_key(namespace, runtime)
        self._claims.setdefault(key, deque(maxlen=MOST_CLAIMS)).append(self._clock())
        self._enqueue(key)

    async def reconcile(self, key: str) -> float | None:
        """Seconds after which to reconcile again. Raises `KubeError`."""
        namespace, _, runtime = key.partition("/")
        known = self._cache.pools.get(key)
        if key not in self._users:
            return await self._remove(key, namespace, runtime)
        self._unused_since.pop(key, None)
        if known is not None and known.deleting:
            return 0.5
        replicas, again = self._size(key, namespace, runtime)
        wait = await self._mark(key, known, replicas) if known is not None else None
        if wait is not None:
            return wait
        desired = pool_deployment(namespace, runtime, replicas, self._platform, self._settings)
        want = manifests.template_hash(desired)
        if known is not None and known.replicas == replicas and self._applied.get(key) == (want, known.digest):
            return again
        name = desired["metadata"]["name"]
        path = paths.item(paths.DEPLOYMENTS, namespace, name)
        if known is None and not await self._is_ours(key, path):
            logger.warning(
                "a Deployment is in the way of a warm pool: delete or rename it, or set the pool's size to 0",
                extra={"namespace": namespace, "deployment": name},
            )
            return 30.0
        try:
            answer = await self._api.apply(path, desired)
        except ApiError as error:
            if error.status == 403 and "being terminated" in error.message:
                return None
            raise
        facts = deployment_facts(answer)
        self._applied[key] = (want, facts.digest)
        self._cache.pools.put(key, facts)
        if known is None or known.replicas != replicas:
            logger.info("warm pool sized", extra={"pool": key, "replicas": replicas, "new": known is None})
        if known is not None and replicas < known.replicas:
            # a marked pod stays if another one, that was not ready, went in its place
            return min(LEAVE_SECONDS, again) if again is not None else LEAVE_SECONDS
        return again

    async def _mark(self, key: str, known: DeploymentFacts, replicas: int) -> float | None:
        """Mark the pods to be removed, so that no gateway claims one that its ReplicaSet deletes.

        Seconds until they may be deleted; None: now. Raises `KubeError`.
        """
        surplus = known.replicas - replicas
        deletes = known.observed_generation < known.generation or known.total > known.replicas
        if surplus == 0 and deletes:
            # it deletes by the marks, which must stay as they are until its status shows that it has finished
            return None
        free = [pod for pod in self._cache.free_pods() if adoption.is_free(pod, self._settings.operator)]
        mark, spare = pool.leaving([pod for pod in free if pool_key(pod.namespace, pod.pool) == key], surplus)
        for pod, cost in [*((pod, "-1") for pod in mark), *((pod, None) for pod in spare)]:
            body = {"metadata": {"uid": pod.uid, "annotations": {names.ANNOTATION_DELETION_COST: cost}}}
            try:
                answer = await self._api.merge_patch(paths.item(paths.PODS, pod.namespace, pod.name), body)
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
                continue
            self._cache.put_pod(f"{pod.namespace}/{pod.name}", pod_record(answer))
        if surplus <= 0:
            self._leaving_since.pop(key, None)
            return None
        now = self._clock()
        since = now if mark else self._leaving_since.get(key, now)
        self._leaving_since[key] = since
        return since + LEAVE_SECONDS - now if since + LEAVE_SECONDS > now else None

    def _size(self, key: str, namespace: str, runtime: str) -> tuple[int, float | None]:
        """(pool pods that there should be now, seconds until that may change)."""
        now, claims = self._clock(), self._claims.get(key, deque())
        while claims and claims[0] + pool.CLAIM_WINDOW <= now:
            claims.popleft()
        base = self._settings.size_for(namespace, runtime)
        size = pool.target_size(now, base, claims, self._settings.max_size)
        if not claims:
            self._claims.pop(key, None)
            return size, None
        return size, claims[0] + pool.CLAIM_WINDOW - now

    async def _is_ours(self, key: str, path: str) -> bool:
        """Whether there is no such Deployment, or one that is a pool of this operator's."""
        try:
            found = await self._api.get(path)
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        labels = found["metadata"].get("labels", {})
        return labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY and key.endswith(
            f"/{labels.get(names.LABEL_POOL, '')}"
        )

    async def _remove(self, key: str, namespace: str, runtime: str) -> float | None:
        self._claims.pop(key, None)
        self._leaving_since.pop(key, None)
        known = self._cache.pools.get(key)
        if known is None or known.deleting:
            self._unused_since.pop(key, None)
            self._applied.pop(key, None)
            return None
        left = self._unused_since.setdefault(key, self._clock()) + LINGER_SECONDS - self._clock()
        if left > 0:
            return left
        name = pool_deployment_name(runtime, self._settings.operator)
        await self._api.delete(paths.item(paths.DEPLOYMENTS, namespace, name), known.uid)
        logger.info("warm pool removed: no Function uses it", extra={"pool": key})
        return LINGER_SECONDS
