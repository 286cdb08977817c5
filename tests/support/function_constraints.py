"""The constraints of the Function's schema, and the table of values that each accepts and refuses
(`tests/golden/crd/constraints.yaml`)."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

TABLE = Path(__file__).resolve().parents[1] / "golden" / "crd" / "constraints.yaml"
Manifest = dict[str, Any]

_BOUNDS = (
    "pattern",
    "format",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
)


def constraints(schema: Manifest, place: str = "") -> Iterator[str]:
    """Each constraint of a structural schema, as the table names it: place, keyword, and what distinguishes it from
    similar ones."""

    def named(text: str) -> str:
        return f"{place} {text}".strip()

    yield from (named(keyword) for keyword in _BOUNDS if keyword in schema)
    yield from (named(f"required {name}") for name in schema.get("required", ()))
    yield from (named(f"keys {key}") for key in schema.get("x-kubernetes-list-map-keys", ()))
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "")
        yield f"{place}{field} rule {rule['message']}".strip()
    for name, part in schema.get("properties", {}).items():
        yield from constraints(part, f"{place}.{name}".lstrip("."))
    if "items" in schema:
        yield from constraints(schema["items"], f"{place}[]")


@dataclass(frozen=True)
class Case:
    constraint: str
    manifest: Manifest
    accepted: bool
    says: str
    """What a refusal names: a field's path."""
    number: int

    @property
    def of_status(self) -> bool:
        return self.constraint.startswith("status")

    def __str__(self) -> str:
        return f"{self.constraint}-{'good' if self.accepted else 'bad'}{self.number}"


def table() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return loaded


def cases() -> list[Case]:
    loaded = table()
    found = []
    for constraint, entry in loaded["constraints"].items():
        base = entry.get("base", "inline")
        place = constraint.split(" ")[0].replace("[]", "[0]")
        if constraint.split(" ")[1] == "keys":
            place += "[1]"
        for accepted, patches in ((True, entry["good"]), (False, entry["bad"])):
            for number, patch in enumerate(patches, 1):
                manifest = _manifest(loaded["bases"], base, _expand(patch))
                found.append(Case(constraint, manifest, accepted, entry.get("says", place), number))
    return found


def smallest() -> Manifest:
    """The smallest Function there is."""
    return _manifest(table()["bases"], "inline", {})


def _manifest(bases: Manifest, base: str, patch: Manifest) -> Manifest:
    metadata: Manifest = {"name": "case"}
    spec = copy.deepcopy(bases[base if base in ("inline", "image") else "inline"])
    manifest = {"apiVersion": "kappa.run/v1alpha1", "kind": "Function", "metadata": metadata, "spec": spec}
    if base == "status":
        manifest["status"] = patch
    elif base == "metadata":
        if "$spec" in patch:
            del manifest["spec"]
        metadata.update({key: value for key, value in patch.items() if key != "$spec"})
    else:
        merge(spec, patch)
    return manifest


def merge(target: Manifest, patch: Manifest) -> None:
    """JSON merge patch (RFC 7386), in place."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def _expand(value: Any) -> Any:
    if isinstance(value, list):
        return [_expand(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "$repeat" in value:
        text, count = value["$repeat"]
        return text * count
    if "$map" in value:
        return {f"key{index}": "value" for index in range(value["$map"])}
    if "$list" in value:
        entry, count = value["$list"]
        return [_numbered(entry, index) for index in range(count)]
    return {key: _expand(part) for key, part in value.items()}


def _numbered(value: Any, index: int) -> Any:
    if isinstance(value, dict):
        return {key: _numbered(part, index) for key, part in value.items()}
    return value.replace("#", str(index)) if isinstance(value, str) else value


def named_fields(error: ValidationError) -> list[str]:
    """The paths that a refusal by the model names, such as `spec.env[0].name`."""
    found = []
    for detail in error.errors(include_url=False):
        location = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
        broken = detail.get("ctx", {}).get("broken", [(None, "")])
        found += [f"{location}.{field}" if field else location for field, _ in broken]
    return found
