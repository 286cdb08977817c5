"""One Function, brought to what its manifest says: level-triggered, so running it twice equals running it once.

The common path writes twice and reads nothing: the Deployment, then the status, each by server-side apply and only
where it differs. All that is observed comes from the cache; what is remembered here only spares calls, and losing it
(a restart, a crash between two calls) leads to the same end.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kappa_core import manifests, names, scaling
from kappa_core.function import Function, FunctionStatus
from kappa_core.manifests import Manifest, Platform
from kappa_core.observed import DeploymentFacts, PodFacts, Problem
from kappa_core.reasons import Reason
from kappa_core.status import Observation, derive, material, seen_problem
from kappa_operator import paths
from kappa_operator.cache import Cache, FunctionRecord, Raw, deployment_function_key, deployment_record, function_record
from kappa_operator.client import ApiError, Json
from kappa_operator.references import config_maps, missing_config

log = logging.getLogger(__name__)

MISSING_GRACE: Final = 0.5
"""Seconds in which a ConfigMap may follow its Function: `kubectl apply` sends a file's objects one after the other."""
SOFT_STATUS_DELAY: Final = 1.0
"""Seconds that mere counts of pods wait before they are written: a cold start has better use for the API server."""
LOOK_AGAIN: Final = 30.0
"""Seconds until a refusal is tried again that no watch would tell the end of."""
OLD_DEPLOYMENT: Final = 0.5
"""Seconds between looks at a Deployment that the garbage collector is about to delete."""


class Writer(Protocol):
    """The part of `client.Api` that reconciling needs."""

    async def get(self, path: str) -> Json: ...
    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json: ...


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


class Events(Protocol):
    def status_changed(self, record: FunctionRecord, old: FunctionStatus, new: FunctionStatus) -> None: ...


@dataclass(slots=True)
class _Memory:
    """What spares calls."""

    desired: str = ""
    """Hash of the manifest last applied."""
    digest: str = ""
    """The Deployment's digest after that."""
    missing_since: float | None = None
    problem: Problem | None = None
    problem_of: tuple[int, str] = (0, "")
    """The generation and manifest that the API server refused."""
    problem_until: float = 0.0


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
        self._clock = clock
        self._now = now
        self._memory: dict[str, _Memory] = {}
        self._soft: dict[str, float] = {}

    async def reconcile(self, key: str) -> float | None:
        """Seconds after which to look again, None if only an event can change anything. Raises what the API raises."""
        record = self._cache.functions.get(key)
        if record is None or record.deleting:
            self._forget(key)
            return None
        memory = self._memory.setdefault(key, _Memory())
        problem, desired, again = self._desired(key, record, memory)
        if problem is None and desired is None:
            return again
        deployment = self._cache.deployments.get(key)
        if desired is not None:
            deployment, refused, later = await self._apply(key, record, desired, deployment, memory)
            problem = problem or refused
            again = _sooner(again, later)
            if deployment is None and refused is None:
                return again
        if deployment is not None and deployment.controller_uid != record.uid:
            deployment = None
        if record.function is not None and deployment is not None:
            spec = _scaling_spec(record.function)
            self._scaler.update(key, spec, deployment.replicas, deployment.resource_version)
        pods = self._cache.pods_for(key)
        observation = Observation(
            generation=record.generation,
            revision=manifests.revision(desired) if desired else "",
            problem=problem,
            deployment=deployment,
            pods=pods,
            init_failures=self._probes.failures(key, pods),
            url=f"{self._gateway_url}/fn/{record.namespace}/{record.name}",
        )
        status, later = await self._write_status(key, record, observation)
        if record.function is not None and deployment is not None:
            failing = seen_problem(observation) is not None
            self._verifier.consider(key, record.function, status, observation.revision, failing=failing)
        return _sooner(again, later)

    def _forget(self, key: str) -> None:
        """The Function is gone; the garbage collector deletes what it owned."""
        self._memory.pop(key, None)
        self._soft.pop(key, None)
        self._cache.refer(key, ())
        self._scaler.forget(key)
        self._verifier.forget(key)
        self._probes.forget(key)

    # What there should be

    def _desired(
        self, key: str, record: FunctionRecord, memory: _Memory
    ) -> tuple[Problem | None, Manifest | None, float | None]:
        function = record.function
        if function is None:
            self._cache.refer(key, ())
            message = f"the spec cannot be read: {record.invalid}. Correct it and apply it again."
            return Problem(Reason.INVALID_SPEC, message), None, None
        self._cache.refer(key, config_maps(function))
        problem = missing_config(function, self._cache.config_maps)
        if problem is None:
            memory.missing_since = None
        elif memory.missing_since is None:
            memory.missing_since = self._clock()
        code = function.spec.code.config_map
        code_facts = self._cache.config_maps.get(names.function_key(record.namespace, code.name)) if code else None
        if problem is not None and memory.missing_since is not None:
            left = memory.missing_since + MISSING_GRACE - self._clock()
            if left > 0:
                return None, None, left
            if code and code_facts is None:
                return problem, None, None
        try:
            desired = manifests.deployment(function, self._platform, code_facts.digest if code_facts else None)
        except manifests.ManifestError as error:
            return Problem(Reason.UNKNOWN_RUNTIME, str(error)), None, None
        return problem, desired, None

    # The Deployment

    async def _apply(
        self,
        key: str,
        record: FunctionRecord,
        desired: Manifest,
        known: DeploymentFacts | None,
        memory: _Memory,
    ) -> tuple[DeploymentFacts | None, Problem | None, float | None]:
        """The Deployment after it; or why it is refused; or when to look again, where it must wait."""
        if known is not None and known.controller_uid not in ("", record.uid):
            if known.controller == f"{names.KIND}/{record.name}":
                # Of a Function of this name that was deleted: the garbage collector has not come by yet.
                return None, None, OLD_DEPLOYMENT
            return known, _conflict(record, known.controller), LOOK_AGAIN
        if known is not None and known.deleting:
            return None, None, OLD_DEPLOYMENT
        want = manifests.template_hash(desired)
        if known is not None and memory.desired == want and memory.digest == known.digest:
            return known, None, None
        refused_for = (record.generation, want)
        if memory.problem and memory.problem_of == refused_for and self._clock() < memory.problem_until:
            return known, memory.problem, memory.problem_until - self._clock()
        mine = known is not None and known.controller_uid == record.uid
        try:
            answer = await self._write_deployment(key, record, desired, known, mine=mine)
        except ApiError as error:
            problem = await self._refusal(record, error, mine=mine)
            memory.problem, memory.problem_of = problem, refused_for
            memory.problem_until = self._clock() + LOOK_AGAIN
            return known, problem, LOOK_AGAIN
        memory.problem = None
        facts = deployment_record(answer)
        memory.desired, memory.digest = want, facts.digest
        if deployment_function_key(answer) == key:
            self._cache.deployments.put(key, facts)
        log.info("Deployment applied", extra={"function": key, "revision": facts.revision, "new": known is None})
        return facts, None, None

    async def _write_deployment(
        self, key: str, record: FunctionRecord, desired: Manifest, known: DeploymentFacts | None, *, mine: bool
    ) -> Json:
        path = paths.item(paths.DEPLOYMENTS, record.namespace, desired["metadata"]["name"])
        body = desired
        assert record.function is not None
        replicas = self._scaler.wanted(key, record.function.spec.scaling.min_replicas)
        if known is None:
            # Absent, they would be 1. The first write through /scale takes them over for good.
            body = {**desired, "spec": {**desired["spec"], "replicas": replicas}}
        elif known.owns_replicas:
            # Until then they are kept as they are, and not at all if somebody changes them meanwhile.
            body = {
                **desired,
                "metadata": {**desired["metadata"], "resourceVersion": str(known.resource_version)},
                "spec": {**desired["spec"], "replicas": known.replicas},
            }
        try:
            # Without force a Deployment that is somebody else's stays theirs.
            return await self._api.apply(path, body, force=mine)
        except ApiError as error:
            if error.status != 409 or mine:
                raise
            found = await self._api.get(path)
            facts = deployment_record(found)
            if facts.controller_uid != record.uid:
                raise
            self._cache.deployments.put(key, facts)
            return await self._api.apply(path, desired, force=True)

    async def _refusal(self, record: FunctionRecord, error: ApiError, *, mine: bool) -> Problem:
        """What the refusal means to the Function's author. Raises `error` where trying again is all there is to do."""
        if error.status == 409 and not mine:
            path = paths.item(paths.DEPLOYMENTS, record.namespace, names.deployment_name(record.name))
            facts = deployment_record(await self._api.get(path))
            if facts.controller == f"{names.KIND}/{record.name}":
                raise error
            return _conflict(record, facts.controller)
        if error.status in (400, 422):
            message = f"the cluster does not take the Deployment: {error.message}. Correct the spec and apply it again."
            return Problem(Reason.INVALID_SPEC, message)
        if error.status == 403 and "being terminated" not in error.message:
            message = f"the cluster refuses the Deployment: {error.message}. Change the Function, or the quota or policy that refuses it."
            return Problem(Reason.POD_REJECTED, message)
        raise error

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
            answer: Raw = await self._api.apply(path, body)
        except ApiError as error:
            if error.status in (404, 409):
                # Deleted, or deleted and made anew: the watch brings what there is now.
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


def _conflict(record: FunctionRecord, owner: str) -> Problem:
    name = names.deployment_name(record.name)
    whose = f"it belongs to {owner}" if owner else "it was not made by Kappa"
    return Problem(
        Reason.DEPLOYMENT_CONFLICT,
        f"the Deployment {name!r} in the namespace {record.namespace!r} is in the way: {whose}."
        " Rename the Function, or delete that Deployment.",
    )


def _sooner(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)
