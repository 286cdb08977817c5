"""Warm pools: which Functions may use one, how large it is, and which gateway claims its pods for a Function. All pure.

A pool is a Deployment of pods of one runtime in one namespace whose runtime process has started and that have no
function yet. On a cold start of an *eligible* Function a gateway claims one of them with a single request (`POST
/specialize`), instead of waiting for a new pod.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kappa_core.durations import parse_quantity
from kappa_core.function import ColdStart, Function
from kappa_core.observed import PodFacts
from kappa_core.specialize import is_read_at_start

CLAIM_WINDOW: Final = 60.0
"""Seconds for which a claim raises the size of its pool by one."""
_REFERENCE: Final = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """An installation's settings for pools. Without a `public_key` there are no pools."""

    size: int = 0
    """Free pods in each pool; 0: no pool."""
    runtimes: Mapping[str, int] = field(default_factory=dict)
    """Runtime → size; overrides `size`."""
    namespaces: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Namespace → runtime → size; overrides both."""
    max_size: int = 10
    """The most that a burst of claims raises a pool to. A pool whose own size is larger keeps that size."""
    memory_limit: str = "512Mi"
    """A pool pod's memory limit. A Function with more memory is not eligible."""
    preload: tuple[str, ...] | None = None
    """Modules that a pool pod's runtime process imports before it has a function; None: the agent's default."""
    public_key: str = ""
    """Ed25519, base64: pool pods verify `specialize` requests with it."""
    operator: str = ""
    """The operator's `name` setting: each of two operators in one cluster has its own pools."""

    def size_for(self, namespace: str, runtime: str) -> int:
        if not self.public_key:
            return 0
        own = self.namespaces.get(namespace, {})
        return own.get(runtime, self.runtimes.get(runtime, self.size))


def cold_start(function: Function, settings: PoolSettings) -> ColdStart:
    """The path of a cold start of `function`, and the reason: the content of `status.coldStart`."""
    runtime = function.spec.runtime or ""
    refusal = ineligible(function, settings.memory_limit)
    if refusal is None and not settings.size_for(function.metadata.namespace, runtime):
        off = not settings.public_key or not (settings.size or settings.runtimes or settings.namespaces)
        refusal = (
            "warm pools are off in this installation"
            if off
            else f"the pool of {runtime} has size 0 in the namespace {function.metadata.namespace!r}"
        )
    if refusal is None:
        return ColdStart(path="Pool", reason=f"A cold start claims a warm {runtime} pod.")
    return ColdStart(path="Deployment", reason=f"A cold start scales up the Function's own Deployment: {refusal}.")


def ineligible(function: Function, memory_limit: str) -> str | None:
    """Why `function` cannot use a pool, naming the field that a running pod cannot satisfy; None: it is eligible."""
    spec = function.spec
    if spec.code.image is not None:
        return "spec.code.image brings an image of its own"
    if not (spec.runtime or "").startswith("python"):
        return f"spec.runtime {spec.runtime} has no pools, only Python has"
    if spec.code.config_map is not None:
        return "spec.code.configMap is mounted when a pod starts"
    if spec.service_account_name:
        return "spec.serviceAccountName: a token is mounted when a pod starts"
    customized = spec.pod_template.model_dump(by_alias=True, exclude_defaults=True)
    if customized:
        return f"spec.podTemplate.{sorted(customized)[0]} can only be given to a new pod"
    if spec.env_from:
        return "spec.envFrom: Secrets and ConfigMaps are read when a pod starts"
    if parse_quantity(spec.memory) > parse_quantity(memory_limit):
        return f"spec.memory {spec.memory} is above the pool pods' limit of {memory_limit}"
    return _variable_at_start(function)


def _variable_at_start(function: Function) -> str | None:
    known: set[str] = set()
    for variable in function.spec.env:
        if variable.value_from is not None:
            return f"spec.env {variable.name}: valueFrom is read when a pod starts"
        if is_read_at_start(variable.name):
            return f"spec.env {variable.name} is read when a process starts"
        for reference in _REFERENCE.finditer(variable.value or ""):
            if reference[1] is not None and reference[1] not in known:
                return f"spec.env {variable.name} refers to $({reference[1]}), which spec.env does not set before it"
        known.add(variable.name)
    return None


def environment(function: Function) -> dict[str, str]:
    """An eligible Function's own variables, with `$(NAME)` and `$$` resolved as the kubelet does."""
    values: dict[str, str] = {}

    def resolve(match: re.Match[str]) -> str:
        return "$" if match[1] is None else values.get(match[1], match[0])

    for variable in function.spec.env:
        values[variable.name] = _REFERENCE.sub(resolve, variable.value or "")
    return values


def spec_hash(function: Function) -> str:
    """Sixteen hex digits over the part of the spec that decides what pods of `function` run.

    Gateway and operator compute the same, so a claim for an outdated spec shows. `scaling` and `async` are left out:
    pods do not depend on them. Not a revision (`manifests.template_hash`), which also covers the installation's images.
    """
    spec = function.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"scaling", "async_"})
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def target_size(now: float, base: int, claims: Iterable[float], max_size: int) -> int:
    """The free pods that a pool should have: `base`, and one more for each claim in the last `CLAIM_WINDOW` seconds.

    `claims` are times on the clock of `now`. Example: base 2 and 3 claims in the last minute give 5, if `max_size`
    allows. A pool of size 0 stays at 0.
    """
    if base <= 0:
        return 0
    recent = sum(1 for claim in claims if now - CLAIM_WINDOW < claim)
    return max(base, min(base + recent, max_size))


def leaving(free: Iterable[PodFacts], surplus: int) -> tuple[list[PodFacts], list[PodFacts]]:
    """Which of a pool's `free` pods are to be deleted when there are `surplus` too many: (pods to mark, pods to
    unmark).

    A mark is a negative `ANNOTATION_DELETION_COST`. The ReplicaSet deletes in the same order (pods that are not ready
    first, then the cheapest), except for pods that have changed in the meantime.
    """
    order = sorted(free, key=lambda pod: (pod.ready, pod.deletion_cost >= 0, pod.name))
    go, stay = order[: max(surplus, 0)], order[max(surplus, 0) :]
    return [pod for pod in go if pod.deletion_cost >= 0], [pod for pod in stay if pod.deletion_cost < 0]


def owner(function_key: str, gateways: Collection[str]) -> str:
    """Which of the gateways claims pool pods for this function: each computes the same one (rendezvous hashing).

    Raises `ValueError` if there are none.
    """
    return min(gateways, key=lambda name: _score(function_key, name))


def _score(function_key: str, gateway: str) -> bytes:
    return hashlib.blake2b(f"{function_key}\0{gateway}".encode(), digest_size=8).digest() + gateway.encode()
