"""Which ConfigMaps a Function names, and which of them are missing: pure, over what the cache holds.

Secrets are not checked: the operator has no right to read them. A missing one shows in the pod's status.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from kappa_core import names
from kappa_core.function import Function
from kappa_core.observed import Problem
from kappa_core.reasons import Reason
from kappa_operator.cache import ConfigMapFacts


class ConfigMaps(Protocol):
    def get(self, key: str) -> ConfigMapFacts | None: ...


def config_maps(function: Function) -> set[str]:
    """Keys (`namespace/name`) of the ConfigMaps that the code, env, envFrom and volumes name."""
    found = {name for name, _, _, _ in _references(function)}
    if function.spec.code.config_map:
        found.add(function.spec.code.config_map.name)
    return {names.function_key(function.metadata.namespace, name) for name in found}


def missing_config(function: Function, known: ConfigMaps) -> Problem | None:
    """The first ConfigMap, or key of one, that must be there and is not."""
    namespace = function.metadata.namespace
    code = function.spec.code.config_map
    if code:
        facts = known.get(names.function_key(namespace, code.name))
        where = f"spec.code.configMap: the ConfigMap {code.name!r} in the namespace {namespace!r}"
        if facts is None:
            return Problem(Reason.CONFIG_MAP_NOT_FOUND, f"{where} does not exist. Create it, or correct the name.")
        if not facts.keys:
            return Problem(Reason.CONFIG_MAP_NOT_FOUND, f"{where} is empty. Put the code's files into it, one a key.")
    for name, key, optional, field in _references(function):
        if optional:
            continue
        facts = known.get(names.function_key(namespace, name))
        if facts is None:
            return Problem(
                Reason.CONFIG_MISSING,
                f"{field}: the ConfigMap {name!r} does not exist in the namespace {namespace!r}."
                " Create it, correct the name, or mark the reference optional.",
            )
        if key is not None and key not in facts.keys:
            return Problem(
                Reason.CONFIG_MISSING,
                f"{field}: the ConfigMap {name!r} in the namespace {namespace!r} has no key {key!r}."
                " Add it, correct the key, or mark the reference optional.",
            )
    return None


def _references(function: Function) -> Iterator[tuple[str, str | None, bool, str]]:
    """(name, key or None for all of it, optional, field) of what env, envFrom and volumes name."""
    spec = function.spec
    for index, variable in enumerate(spec.env):
        ref = variable.value_from.config_map_key_ref if variable.value_from else None
        if ref:
            yield ref.name, ref.key, ref.optional, f"spec.env[{index}] ({variable.name})"
    for index, source in enumerate(spec.env_from):
        if source.config_map_ref:
            yield source.config_map_ref.name, None, source.config_map_ref.optional, f"spec.envFrom[{index}]"
    for index, volume in enumerate(spec.pod_template.volumes):
        field = f"spec.podTemplate.volumes[{index}]"
        for config_map in _volume_sources(volume):
            if isinstance(config_map.get("name"), str):
                yield config_map["name"], None, bool(config_map.get("optional")), field


def _volume_sources(volume: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if isinstance(volume.get("configMap"), dict):
        yield volume["configMap"]
    projected = volume.get("projected")
    for source in projected.get("sources", []) if isinstance(projected, dict) else []:
        if isinstance(source, dict) and isinstance(source.get("configMap"), dict):
            yield source["configMap"]
