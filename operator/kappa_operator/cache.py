"""What the operator knows of the cluster: small facts in `kappa_kube.store.Store`s, with indices over them.

kopf's handlers feed them (`watch`), full lists (`relist`) and the answers to the operator's own writes.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import ValidationError

from kappa_core import names
from kappa_core.function import Condition, Function, FunctionStatus
from kappa_core.observed import DeploymentFacts, PodFacts, Raw, pod_facts, resource_version
from kappa_core.pool_manifest import pool_deployment_name
from kappa_kube.store import Store


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """A Function as last seen: parsed, or why it cannot be parsed."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: int
    deleting: bool
    function: Function | None
    status: FunctionStatus
    invalid: str = ""
    """What is wrong with its spec, field by field, where `function` is None."""


@dataclass(frozen=True, slots=True)
class ConfigMapFacts:
    resource_version: int
    digest: str
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class PodRecord:
    resource_version: int
    facts: PodFacts


@dataclass(slots=True)
class Cache:
    functions: Store[FunctionRecord] = field(default_factory=Store)
    """Function key (`namespace/name`) → record."""
    deployments: Store[DeploymentFacts] = field(default_factory=Store)
    """Function key → its Deployment."""
    pods: Store[PodRecord] = field(default_factory=Store)
    """`namespace/pod` → record."""
    pools: Store[DeploymentFacts] = field(default_factory=Store)
    """`namespace/runtime` → the Deployment of its warm pods."""
    config_maps: Store[ConfigMapFacts] = field(default_factory=Store)
    """`namespace/name` → facts."""
    pods_of: dict[str, set[str]] = field(default_factory=dict)
    """Function key → pod keys."""
    free: dict[str, set[str]] = field(default_factory=dict)
    """`namespace/runtime` → keys of the pods in its warm pool."""
    users_of: dict[str, set[str]] = field(default_factory=dict)
    """ConfigMap key → Function keys that refer to it."""
    _references: dict[str, frozenset[str]] = field(default_factory=dict)

    def pods_for(self, function_key: str) -> list[PodFacts]:
        records = [self.pods.get(key) for key in sorted(self.pods_of.get(function_key, ()))]
        return [record.facts for record in records if record is not None]

    def free_pods(self) -> list[PodFacts]:
        """The pool pods: those that no function has yet."""
        records = [self.pods.get(key) for keys in self.free.values() for key in keys]
        return [record.facts for record in records if record is not None]

    def put_pod(self, key: str, record: PodRecord) -> None:
        known = self.pods.get(key)
        if not self.pods.put(key, record):
            return
        if known is not None:
            self._forget_pod(key, known)
        self._index(key, record)

    def remove_pod(self, key: str, version: int = -1) -> PodRecord | None:
        record = self.pods.remove(key, version)
        if record is not None:
            self._forget_pod(key, record)
        return record

    def _group(self, facts: PodFacts) -> tuple[dict[str, set[str]], str]:
        if facts.pool and not facts.function:
            return self.free, pool_key(facts.namespace, facts.pool)
        return self.pods_of, names.function_key(facts.namespace, facts.function)

    def _index(self, key: str, record: PodRecord) -> None:
        index, owner = self._group(record.facts)
        index.setdefault(owner, set()).add(key)

    def _forget_pod(self, key: str, record: PodRecord) -> None:
        index, owner = self._group(record.facts)
        pods = index.get(owner)
        if pods is not None:
            pods.discard(key)
            if not pods:
                del index[owner]

    def reindex_pods(self) -> None:
        """After a relist: build the indices of pods from scratch."""
        self.pods_of.clear()
        self.free.clear()
        for key in self.pods:
            record = self.pods.get(key)
            if record is not None:
                self._index(key, record)

    def refer(self, function_key: str, config_maps: Iterable[str]) -> None:
        """Say which ConfigMaps a Function uses, so that their changes reach it."""
        new = frozenset(config_maps)
        old = self._references.get(function_key, frozenset())
        for key in old - new:
            users = self.users_of.get(key, set())
            users.discard(function_key)
            if not users:
                self.users_of.pop(key, None)
        for key in new - old:
            self.users_of.setdefault(key, set()).add(function_key)
        if new:
            self._references[function_key] = new
        else:
            self._references.pop(function_key, None)


def object_key(raw: Raw) -> str:
    return f"{raw['metadata'].get('namespace', '')}/{raw['metadata']['name']}"


def deployment_function_key(raw: Raw) -> str | None:
    """The key of the Function that a Deployment is for, by its label and its name; None if it is not for one."""
    metadata = raw["metadata"]
    name = metadata.get("labels", {}).get(names.LABEL_FUNCTION, "")
    if not name or metadata["name"] != names.deployment_name(name):
        return None
    return names.function_key(metadata["namespace"], name)


def pool_key(namespace: str, runtime: str) -> str:
    return f"{namespace}/{runtime}"


def deployment_pool_key(raw: Raw, operator: str = "") -> str | None:
    """The key of the pool that a Deployment is, if it is one of this operator's."""
    labels = raw["metadata"].get("labels", {})
    runtime = labels.get(names.LABEL_POOL, "")
    if not runtime or raw["metadata"]["name"] != pool_deployment_name(runtime, operator):
        return None
    return pool_key(raw["metadata"]["namespace"], runtime)


def function_record(raw: Raw) -> FunctionRecord:
    metadata = raw["metadata"]
    function: Function | None = None
    invalid = ""
    try:
        function = Function.from_cluster(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "metadata": {key: metadata[key] for key in ("name", "namespace", "uid", "generation")},
                "spec": raw.get("spec"),
            }
        )
    except ValidationError as error:
        invalid = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'spec'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
    return FunctionRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        resource_version=resource_version(raw),
        deleting="deletionTimestamp" in metadata,
        function=function,
        status=_status(raw.get("status") or {}),
        invalid=invalid,
    )


def _status(raw: Raw) -> FunctionStatus:
    """What can be read of a status, which may have been edited by hand."""
    try:
        return FunctionStatus.model_validate(raw)
    except ValidationError:
        conditions = []
        for entry in raw.get("conditions", []) if isinstance(raw.get("conditions"), list) else []:
            try:
                conditions.append(Condition.model_validate(entry))
            except ValidationError:
                continue
        return FunctionStatus(conditions=conditions)


def config_map_facts(raw: Raw) -> ConfigMapFacts:
    data, binary = raw.get("data") or {}, raw.get("binaryData") or {}
    text = json.dumps([data, binary], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return ConfigMapFacts(
        resource_version=resource_version(raw),
        digest=hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(),
        keys=frozenset(data) | frozenset(binary),
    )


def pod_record(raw: Raw) -> PodRecord:
    return PodRecord(resource_version=resource_version(raw), facts=pod_facts(raw))
