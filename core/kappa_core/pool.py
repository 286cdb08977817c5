"""Warm pools: who may use one, how large it is, and how gateways share what is left of `maxReplicas`. All of it pure.

A pool is a Deployment of generic pods of one runtime in one namespace, their runtime process already started. A cold start
of an *eligible* Function takes one over in a single request (`POST /specialize`) instead of starting a pod.
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
"""Seconds for which a claim keeps its pool larger."""
_REFERENCE: Final = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What an installation says about its pools. `public_key` empty: there are none."""

    size: int = 0
    """Free pods that each pool holds; 0: no pool."""
    runtimes: Mapping[str, int] = field(default_factory=dict)
    """Runtime → size, in place of `size`."""
    namespaces: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Namespace → runtime → size, before both."""
    max_size: int = 10
    """What a burst may raise a pool to. A size above it stays as it is."""
    memory_limit: str = "512Mi"
    """Of a free pod. A Function with more does not use the pool."""
    preload: tuple[str, ...] | None = None
    """Modules that the runtime process imports before it knows its function; None: the agent's own choice."""
    public_key: str = ""
    """Base64 of the Ed25519 key that `specialize` is verified with."""
    operator: str = ""
    """The operator's `name` setting: two operators in one cluster keep pools of their own."""

    def size_for(self, namespace: str, runtime: str) -> int:
        if not self.public_key:
            return 0
        own = self.namespaces.get(namespace, {})
        return own.get(runtime, self.runtimes.get(runtime, self.size))


def cold_start(function: Function, settings: PoolSettings) -> ColdStart:
    """Which way a cold start of `function` goes, and why: what `status.coldStart` says."""
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
        return ColdStart(path="Pool", reason=f"A cold start takes over a warm {runtime} pod.")
    return ColdStart(path="Deployment", reason=f"A cold start scales the Function's own Deployment up: {refusal}.")


def ineligible(function: Function, memory_limit: str) -> str | None:
    """What `function` needs that a running pod cannot be given, naming the field; None if there is nothing."""
    spec = function.spec
    if spec.code.image is not None:
        return "spec.code.image is an image of its own"
    if not (spec.runtime or "").startswith("python"):
        return f"spec.runtime {spec.runtime} has no warm pods, only Python has"
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
        return f"spec.memory {spec.memory} is above the warm pods' limit of {memory_limit}"
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
    """The function's own variables, `$(NAME)` and `$$` resolved as the kubelet does; of an eligible Function."""
    values: dict[str, str] = {}

    def resolve(match: re.Match[str]) -> str:
        return "$" if match[1] is None else values.get(match[1], match[0])

    for variable in function.spec.env:
        values[variable.name] = _REFERENCE.sub(resolve, variable.value or "")
    return values


def spec_hash(function: Function) -> str:
    """Sixteen hex digits that change when pods of `function` must be replaced; the same for gateway and operator.

    What only scaling and the gateway read (`scaling`, `async`) leaves no trace, as in `manifests.deployment`.
    """
    spec = function.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"scaling", "async_"})
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def target_size(now: float, base: int, claims: Iterable[float], max_size: int) -> int:
    """Free pods that a pool should have: as many as it always has, and as many again as were claimed lately.

    `claims` are times on the clock of `now`. A pool of size 0 stays at 0.
    """
    if base <= 0:
        return 0
    recent = sum(1 for claim in claims if now - CLAIM_WINDOW < claim)
    return max(base, min(base + recent, max_size))


def leaving(free: Iterable[PodFacts], surplus: int) -> tuple[list[PodFacts], list[PodFacts]]:
    """Which of a pool's `free` pods go when there are `surplus` too many: (those to mark, those whose mark is void).

    A mark is a negative `ANNOTATION_DELETION_COST`. The ReplicaSet deletes by the same order, but for what is new since:
    pods that are not ready first, then the cheapest.
    """
    order = sorted(free, key=lambda pod: (pod.ready, pod.deletion_cost >= 0, pod.name))
    go, stay = order[: max(surplus, 0)], order[max(surplus, 0) :]
    return [pod for pod in go if pod.deletion_cost >= 0], [pod for pod in stay if pod.deletion_cost < 0]


def rank(function_key: str, gateway: str, gateways: Collection[str]) -> int:
    """The place of `gateway` among `gateways` for this function, from 0: each computes the same order (rendezvous hashing).

    Raises `ValueError` if `gateway` is none of them.
    """
    return sorted(set(gateways), key=lambda name: _score(function_key, name)).index(gateway)


def _score(function_key: str, gateway: str) -> bytes:
    return hashlib.blake2b(f"{function_key}\0{gateway}".encode(), digest_size=8).digest() + gateway.encode()


def share(remaining: int, rank: int, gateways: int) -> int:
    """How many of `remaining` pods the gateway of this `rank` may claim; over all ranks they add up to `remaining`.

    `remaining` must be what every gateway sees (`maxReplicas` less the pods that carry the function's label), and what
    this gateway has claimed beyond those counts against its share.
    """
    if remaining <= 0 or gateways <= 0:
        return 0
    return remaining // gateways + (1 if rank < remaining % gateways else 0)
