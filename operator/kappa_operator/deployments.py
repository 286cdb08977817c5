"""A Function's Deployment: applied only where it differs, never over one of another owner, its replicas left alone."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kappa_core import manifests, names
from kappa_core.manifests import Manifest
from kappa_core.observed import DeploymentFacts, Problem, deployment_facts
from kappa_core.reasons import Reason
from kappa_kube import paths
from kappa_kube.connection import Json
from kappa_kube.errors import ApiError
from kappa_operator.cache import Cache, FunctionRecord, deployment_function_key

logger = logging.getLogger(__name__)

LOOK_AGAIN: Final = 30.0
"""Seconds until a refused apply is tried again: no event says when the reason for the refusal is gone."""
OLD_DEPLOYMENT: Final = 0.5
"""Seconds between checks of a Deployment that the garbage collector is about to delete."""


class Writer(Protocol):
    """The part of `kappa_kube.client.Client` that reconciling needs."""

    async def get(self, path: str) -> Json: ...
    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json: ...
    async def delete(self, path: str, uid: str) -> None: ...


@dataclass(slots=True)
class _Memory:
    """What saves calls; losing it (a restart) costs some, and changes nothing."""

    manifest: Manifest | None = None
    """The last one seen; the same object has the same hash."""
    manifest_hash: str = ""
    desired: str = ""
    """Hash of the manifest last applied."""
    digest: str = ""
    """The Deployment's digest after that."""
    problem: Problem | None = None
    problem_of: tuple[int, str] = (0, "")
    """The generation and manifest that the API server refused."""
    problem_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Applied:
    """The Deployment as it is now, why it was refused, and when to reconcile again; all None: nothing is known yet."""

    deployment: DeploymentFacts | None
    problem: Problem | None = None
    again: float | None = None


class Deployments:
    """`apply` one; `replicas(key, default)` is how many a new one starts with."""

    def __init__(
        self, api: Writer, cache: Cache, replicas: Callable[[str, int], int], clock: Callable[[], float]
    ) -> None:
        self._api = api
        self._cache = cache
        self._replicas = replicas
        self._clock = clock
        self._memory: dict[str, _Memory] = {}

    def forget(self, key: str) -> None:
        self._memory.pop(key, None)

    async def apply(
        self,
        key: str,
        record: FunctionRecord,
        desired: Manifest,
    ) -> Applied:
        """Raises `ApiError` where trying again is all there is to do."""
        memory = self._memory.setdefault(key, _Memory())
        known = self._cache.deployments.get(key)
        if known is not None and known.controller_uid not in ("", record.uid):
            if known.controller == f"{names.KIND}/{record.name}":
                # Of a deleted Function of this name: the garbage collector has not deleted it yet.
                return Applied(None, again=OLD_DEPLOYMENT)
            return Applied(known, _conflict(record, known.controller), LOOK_AGAIN)
        if known is not None and known.deleting:
            return Applied(None, again=OLD_DEPLOYMENT)
        if memory.manifest is not desired:
            memory.manifest, memory.manifest_hash = desired, manifests.template_hash(desired)
        want = memory.manifest_hash
        if known is not None and memory.desired == want and memory.digest == known.digest:
            return Applied(known)
        refused_for = (record.generation, want)
        if memory.problem and memory.problem_of == refused_for and self._clock() < memory.problem_until:
            return Applied(known, memory.problem, memory.problem_until - self._clock())
        mine = known is not None and known.controller_uid == record.uid
        try:
            answer = await self._write(key, record, desired, known, mine=mine)
        except ApiError as error:
            problem = await self._refusal(record, error, mine=mine)
            memory.problem, memory.problem_of = problem, refused_for
            memory.problem_until = self._clock() + LOOK_AGAIN
            return Applied(known, problem, LOOK_AGAIN)
        memory.problem = None
        facts = deployment_facts(answer)
        memory.desired, memory.digest = want, facts.digest
        if deployment_function_key(answer) == key:
            self._cache.deployments.put(key, facts)
        logger.info("Deployment applied", extra={"function": key, "revision": facts.revision, "new": known is None})
        return Applied(facts)

    async def _write(
        self, key: str, record: FunctionRecord, desired: Manifest, known: DeploymentFacts | None, *, mine: bool
    ) -> Json:
        path = paths.item(paths.DEPLOYMENTS, record.namespace, desired["metadata"]["name"])
        body = desired
        assert record.function is not None
        replicas = self._replicas(key, record.function.spec.scaling.min_replicas)
        if known is None:
            # Absent, they would be 1. The first write through /scale takes them over for good.
            body = {**desired, "spec": {**desired["spec"], "replicas": replicas}}
        elif known.owns_replicas:
            # Until then they are kept as they are. The resourceVersion makes this fail if they changed meanwhile.
            body = {
                **desired,
                "metadata": {**desired["metadata"], "resourceVersion": str(known.resource_version)},
                "spec": {**desired["spec"], "replicas": known.replicas},
            }
        try:
            # Without force a Deployment of another owner stays as it is.
            return await self._api.apply(path, body, force=mine)
        except ApiError as error:
            if error.status != 409 or mine:
                raise
            found = await self._api.get(path)
            facts = deployment_facts(found)
            if facts.controller_uid != record.uid:
                raise
            self._cache.deployments.put(key, facts)
            return await self._api.apply(path, desired, force=True)

    async def _refusal(self, record: FunctionRecord, error: ApiError, *, mine: bool) -> Problem:
        """What the refusal means to the Function's author. Raises `error` where trying again is all there is to do."""
        if error.status == 409 and not mine:
            path = paths.item(paths.DEPLOYMENTS, record.namespace, names.deployment_name(record.name))
            facts = deployment_facts(await self._api.get(path))
            if facts.controller == f"{names.KIND}/{record.name}":
                raise error
            return _conflict(record, facts.controller)
        if error.status in (400, 422):
            message = f"the cluster does not take the Deployment: {error.message}. Correct the spec and apply it again."
            return Problem(Reason.INVALID_SPEC, message)
        if error.status == 403 and "being terminated" not in error.message:
            message = (
                f"the cluster refuses the Deployment: {error.message}."
                " Change the Function, or the quota or policy that refuses it."
            )
            return Problem(Reason.POD_REJECTED, message)
        raise error


def _conflict(record: FunctionRecord, owner: str) -> Problem:
    name = names.deployment_name(record.name)
    reason = f"it belongs to {owner}" if owner else "it was not made by Kappa"
    return Problem(
        Reason.DEPLOYMENT_CONFLICT,
        f"the Deployment {name!r} in the namespace {record.namespace!r} is in the way: {reason}."
        " Rename the Function, or delete that Deployment.",
    )
