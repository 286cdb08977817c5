"""Resolves what a function's process gets: its environment and its code files, as the kubelet would."""

import hashlib
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from kappa_cli.local.manifests.reading import Declared, Manifests
from kappa_core.durations import parse_quantity
from kappa_core.function import EnvVarSource, Function
from kappa_core.reasons import Reason

CONFIG_MAP_BYTES: Final = 1024 * 1024
"""Kubernetes' limit for one ConfigMap."""
_VARIABLE: Final = re.compile(r"\$(?:\$|\(([A-Za-z_][-A-Za-z0-9_.]*)\))")
_NAME: Final = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_LABELED: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class Unresolvable(Exception):
    """The function cannot run in local mode; `reason` is for its Ready condition."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that one revision of a function's process depends on. A change that keeps the revision needs no
    restart."""

    function: Function
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name → content, for the task root; empty for inline code and archives, which the agent unpacks itself."""

    @property
    def revision(self) -> str:
        spec = self.function.spec
        parts = spec.model_dump(mode="json", include={"runtime", "handler", "code", "memory", "timeout", "concurrency"})
        digest = hashlib.sha256(json.dumps([parts, dict(self.env)], sort_keys=True).encode())
        for name, content in sorted(self.files.items()):
            digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]


def resolve(declared: Declared, manifests: Manifests) -> Workload:
    """Raises `Unresolvable`."""
    function = declared.function
    assert function is not None, "only a Function that was read can be resolved"
    spec = function.spec
    if spec.code.image:
        raise Unresolvable(
            Reason.IMAGE_PULL_FAILED,
            f"code.image ({spec.code.image.ref}) is a container image, and those run in a cluster only: "
            "use inline, configMap or archive code here, or kubectl apply it to a cluster",
        )
    if not (spec.runtime or "").startswith("python3"):
        raise Unresolvable(
            Reason.UNKNOWN_RUNTIME,
            f"the runtime {spec.runtime!r} needs a cluster: local mode runs Python functions (runtime: python3.13)",
        )
    files: Mapping[str, bytes] = {}
    if spec.code.config_map:
        files = _code_files(function, spec.code.config_map.name, declared.path.parent, manifests)
    return Workload(function, environment(function, manifests), files)


def _code_files(function: Function, name: str, folder: Path, manifests: Manifests) -> Mapping[str, bytes]:
    config_map = manifests.config_maps.get((function.metadata.namespace, name))
    if config_map is not None:
        return config_map
    code = folder / name
    if not code.is_dir():
        raise Unresolvable(
            Reason.CONFIG_MAP_NOT_FOUND,
            f"code.configMap: there is no ConfigMap {name!r} in namespace {function.metadata.namespace!r} among the "
            f"manifests. Add one, or put its files into the folder {code} "
            f"(as for kubectl create configmap {name} --from-file={name})",
        )
    files = {
        file.name: file.read_bytes()
        for file in sorted(code.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".pyc"
    }
    size = sum(map(len, files.values()))
    if size > CONFIG_MAP_BYTES:
        raise Unresolvable(
            Reason.CODE_UNREADABLE,
            f"the folder {code} holds {size:,} bytes, and a ConfigMap at most {CONFIG_MAP_BYTES:,}: use code.archive",
        )
    return files


def environment(function: Function, manifests: Manifests) -> dict[str, str]:
    """`envFrom`, then `env` in order, with `$(NAME)` put in, as Kubernetes does. Raises `Unresolvable`."""
    namespace = function.metadata.namespace
    env: dict[str, str] = {}
    for source in function.spec.env_from:
        kind, reference = ("Secret", source.secret_ref) if source.secret_ref else ("ConfigMap", source.config_map_ref)
        assert reference is not None, "the model holds exactly one"
        data = _objects(kind, manifests).get((namespace, reference.name))
        if data is None and not reference.optional:
            raise Unresolvable(Reason.CONFIG_MISSING, f"envFrom: {_absent(kind, reference.name, namespace)}")
        for name, content in (data or {}).items():
            if _NAME.fullmatch(name):  # the kubelet skips the others too
                env[(source.prefix or "") + name] = content.decode(errors="surrogateescape")
    for variable in function.spec.env:
        if variable.value_from is None:
            env[variable.name] = expand(variable.value or "", env)
        else:
            value = _value_from(variable.value_from, function, manifests, variable.name)
            if value is not None:
                env[variable.name] = value
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` → its value, if it is known, and `$$` → `$` (Kubernetes' rule for EnvVar.value)."""
    return _VARIABLE.sub(lambda m: "$" if m[1] is None else env.get(m[1], m[0]), text)


def _value_from(source: EnvVarSource, function: Function, manifests: Manifests, variable: str) -> str | None:
    namespace = function.metadata.namespace
    if source.field_ref:
        return _field(source.field_ref.field_path, function, variable)
    if source.resource_field_ref:
        return _resource(source.resource_field_ref.resource, source.resource_field_ref.divisor, function, variable)
    kind, selector = (
        ("Secret", source.secret_key_ref) if source.secret_key_ref else ("ConfigMap", source.config_map_key_ref)
    )
    assert selector is not None, "the model holds exactly one"
    data = _objects(kind, manifests).get((namespace, selector.name))
    if data is not None and selector.key in data:
        return data[selector.key].decode(errors="surrogateescape")
    if selector.optional:
        return None
    if data is None:
        raise Unresolvable(Reason.CONFIG_MISSING, f"env {variable}: {_absent(kind, selector.name, namespace)}")
    raise Unresolvable(
        Reason.CONFIG_MISSING,
        f"env {variable}: the {kind} {selector.name!r} has no key {selector.key!r}; "
        f"it has {', '.join(sorted(data)) or 'none'}",
    )


def _objects(kind: str, manifests: Manifests) -> Mapping[tuple[str, str], dict[str, bytes]]:
    return manifests.secrets if kind == "Secret" else manifests.config_maps


def _absent(kind: str, name: str, namespace: str) -> str:
    absent = f"there is no {kind} {name!r} in namespace {namespace!r} among the manifests"
    return f"{absent}: add one, or mark it optional: true"


def _field(path: str, function: Function, variable: str) -> str:
    metadata = function.metadata
    if match := _LABELED.fullmatch(path):
        return (metadata.labels if match[1] == "labels" else metadata.annotations).get(match[2], "")
    known = {
        "metadata.name": f"fn-{metadata.name}-local",
        "metadata.namespace": metadata.namespace,
        "metadata.uid": "00000000-0000-0000-0000-000000000000",
        "spec.nodeName": socket.gethostname(),
        "spec.serviceAccountName": function.spec.service_account_name or "default",
        "status.podIP": "127.0.0.1",
        "status.podIPs": "127.0.0.1",
        "status.hostIP": "127.0.0.1",
        "status.hostIPs": "127.0.0.1",
    }
    if path not in known:
        raise Unresolvable(Reason.INVALID_SPEC, f"env {variable}: fieldPath {path!r} is not one of {', '.join(known)}")
    return known[path]


def _resource(resource: str, divisor: str | None, function: Function, variable: str) -> str:
    values = {"memory": function.spec.memory, "cpu": function.spec.cpu}
    kind, _, name = resource.partition(".")
    if kind not in ("limits", "requests") or name not in values:
        raise Unresolvable(
            Reason.INVALID_SPEC,
            f"env {variable}: resource {resource!r} is not one of limits.memory, limits.cpu, requests.memory, "
            "requests.cpu",
        )
    value = parse_quantity(values[name] or "1")
    return str(-(-value // (parse_quantity(divisor) if divisor else Decimal(1))))  # Kubernetes rounds up
