"""One Function, brought to its manifest: level-triggered, so running it twice equals running it once.

The common path writes twice and reads nothing: the Deployment, then the status, each by server-side apply and only
where it differs. All that is observed comes from the cache. What is remembered here only saves calls: losing it (a
restart, a crash between two calls) leads to the same end.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from kappa_core import manifests, names, pool, scaling
from kappa_core.function import Function, FunctionStatus
from kappa_core.manifests import Manifest, Platform
from kappa_core.observed import DeploymentFacts, PodFacts, Problem
from kappa_core.pool import PoolSettings
from kappa_core.reasons import Reason
from kappa_core.status import COLD_START, Observation, derive, material, seen_problem
from kappa_kube import paths
from kappa_kube.errors import ApiError
from kappa_operator.cache import Cache, FunctionRecord, function_record
from kappa_operator.deployments import Deployments, Writer
from kappa_operator.references import config_maps, missing_config

logger = logging.getLogger(__name__)

MISSING_GRACE: Final = 0.5
"""Seconds in which a ConfigMap may follow its Function: `kubectl apply` sends a file's objects one after the other."""
NO_POOLS: Final = PoolSettings()
SOFT_STATUS_DELAY: Final = 1.0
"""Seconds that mere counts of pods wait before they are written: a cold start needs the API server more."""


class Scaling(Protocol):
    def update(self, key: str, spec: scaling.ScalingSpec, replicas: int, resource_version: int) -> None: ...
    def wanted(self, key: str, default: int) -> int: ...
    def forget(self, key: str) -> None: ...


class Verifying(Protocol):
    def consider(
        self, key: str, function: Function, status: FunctionStatus, revision: str, *, failing: bool
    ) -> None: ...
    def forget(self, key: str) -> None: ...


class InitProbing(Protocol):
    def failures(self, key: str, pods: list[PodFacts]) -> dict[str, Problem]: ...
    def forget(self, key: str) -> None: ...


class Adopting(Protocol):
    async def adopt(
        self, key: str, record: FunctionRecord, deployment: DeploymentFacts | None, revision: str
    ) -> float | None: ...
    async def abandon(self, key: str) -> None: ...


class Events(Protocol):
    def status_changed(self, record: FunctionRecord, old: FunctionStatus, new: FunctionStatus) -> None: ...


class Reconciler:
    def __init__(
        self,
        api: Writer,
        cache: Cache,
        platform: Platform,
        gateway_url: str,
        scaler: Scaling,
        verifier: Verifying,
        probes: InitProbing,
        events: Events,
        adoption: Adopting,
        pools: PoolSettings = NO_POOLS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] = lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    ) -> None:
        self._api = api
        self._cache = cache
        self._platform = platform
        self._gateway_url = gateway_url.rstrip("/")
        self._scaler = scaler
        self._verifier = verifier
        self._probes = probes
        self._events = events
        self._adoption = adoption
        self._pools = pools
        self._clock = clock
        self._now = now
        self._deployments = Deployments(api, cache, scaler.wanted, clock)
        self._missing_since: dict[str, float] = {}
        self._soft: dict[str, float] = {}
        self._made: dict[str, tuple[tuple[object, ...], Manifest]] = {}
        """What each manifest was made from, and the manifest: a cold start needs it ten times."""

    async def reconcile(self, key: str) -> float | None:
        """Seconds after which to reconcile again, None if only an event can change anything. Raises `KubeError`."""
        record = self._cache.functions.get(key)
        if record is None or record.deleting:
            self._forget(key)
            await self._adoption.abandon(key)
            return None
        problem, desired, again = self._desired(key, record)
        if problem is None and desired is None:
            return again
        deployment = self._cache.deployments.get(key)
        if desired is not None:
            applied = await self._deployments.apply(key, record, desired)
            if applied.deployment is None and applied.problem is None:
                return applied.again
            deployment, problem, again = applied.deployment, problem or applied.problem, applied.again
        if deployment is not None and deployment.controller_uid != record.uid:
            deployment = None
        if record.function is not None and deployment is not None:
            spec = _scaling_spec(record.function)
            self._scaler.update(key, spec, deployment.replicas, deployment.resource_version)
        revision = manifests.revision(desired) if desired else ""
        again = _sooner(again, await self._adoption.adopt(key, record, deployment, revision))
        pods = self._cache.pods_for(key)
        await self._replace_spent(key, pods)
        observation = Observation(
            generation=record.generation,
            revision=revision,
            problem=problem,
            deployment=deployment,
            pods=pods,
            init_failures=self._probes.failures(key, pods),
            url=f"{self._gateway_url}/fn/{record.namespace}/{record.name}",
            cold_start=pool.cold_start(record.function, self._pools) if record.function else COLD_START,
        )
        status, later = await self._write_status(key, record, observation)
        if record.function is not None and deployment is not None:
            failing = seen_problem(observation) is not None
            self._verifier.consider(key, record.function, status, observation.revision, failing=failing)
        return _sooner(again, later)

    def _forget(self, key: str) -> None:
        """The Function is gone; the garbage collector deletes what it owned."""
        self._deployments.forget(key)
        self._missing_since.pop(key, None)
        self._soft.pop(key, None)
        self._made.pop(key, None)
        self._cache.refer(key, ())
        self._scaler.forget(key)
        self._verifier.forget(key)
        self._probes.forget(key)

    async def _replace_spent(self, key: str, pods: list[PodFacts]) -> None:
        """A new pod starts within a second; a container that ended twice is restarted after 10 s, then 20, up to 300.

        And a pod that came from a pool has lost its function when its container was restarted.
        """
        for pod in pods:
            if (pod.spent or pod.relapsed) and not pod.terminating:
                try:
                    await self._api.delete(paths.item(paths.PODS, pod.namespace, pod.name), pod.uid)
                except ApiError as error:
                    # The rest of the reconcile matters more: the kubelet restarts it in the end.
                    logger.warning("a pod cannot be replaced", extra={"pod": pod.name, "error": str(error)})
                    continue
                logger.info("a pod whose runtime ended again is replaced", extra={"function": key, "pod": pod.name})

    # The desired state

    def _desired(self, key: str, record: FunctionRecord) -> tuple[Problem | None, Manifest | None, float | None]:
        """(what is wrong, the manifest if one can be made, when to reconcile again if neither is certain yet)."""
        function = record.function
        if function is None:
            self._cache.refer(key, ())
            message = f"the spec cannot be read: {record.invalid}. Correct it and apply it again."
            return Problem(Reason.INVALID_SPEC, message), None, None
        self._cache.refer(key, config_maps(function))
        problem = missing_config(function, self._cache.config_maps)
        code = function.spec.code.config_map
        code_facts = self._cache.config_maps.get(names.function_key(record.namespace, code.name)) if code else None
        if problem is None:
            self._missing_since.pop(key, None)
        else:
            left = self._missing_since.setdefault(key, self._clock()) + MISSING_GRACE - self._clock()
            if left > 0:
                return None, None, left
            if code and code_facts is None:
                return problem, None, None
        digest = code_facts.digest if code_facts else None
        source = (record.uid, record.generation, digest)
        made = self._made.get(key)
        if made is not None and made[0] == source:
            return problem, made[1], None
        try:
            desired = manifests.deployment(function, self._platform, digest)
        except manifests.ManifestError as error:
            return Problem(Reason.UNKNOWN_RUNTIME, str(error)), None, None
        self._made[key] = (source, desired)
        return problem, desired, None

    # The status

    async def _write_status(
        self, key: str, record: FunctionRecord, observation: Observation
    ) -> tuple[FunctionStatus, float | None]:
        old = record.status
        new = derive(observation, old, self._now())
        if new == old:
            self._soft.pop(key, None)
            return new, None
        if not material(old, new):
            due = self._soft.setdefault(key, self._clock() + SOFT_STATUS_DELAY)
            if self._clock() < due:
                return new, due - self._clock()
        self._soft.pop(key, None)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            # With the uid a Function of the same name that came since is not written to.
            "metadata": {"name": record.name, "namespace": record.namespace, "uid": record.uid},
            "status": new.model_dump(by_alias=True, exclude_none=True),
        }
        path = paths.item(paths.FUNCTIONS, record.namespace, record.name, "status")
        try:
            answer = await self._api.apply(path, body)
        except ApiError as error:
            if error.status == 404:
                # Deleted, and no event said so.
                self._cache.functions.remove(key)
                return new, 0.0
            if error.status == 409:
                # Deleted and created again: the watch brings the present one.
                return new, None
            raise
        self._cache.functions.put(key, function_record(answer))
        self._events.status_changed(record, old, new)
        return new, None


def _scaling_spec(function: Function) -> scaling.ScalingSpec:
    spec = function.spec
    return scaling.ScalingSpec(
        min_replicas=spec.scaling.min_replicas,
        max_replicas=spec.scaling.max_replicas,
        keep_warm=spec.scaling.keep_warm_seconds,
        concurrency=spec.concurrency,
    )


def _sooner(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)
