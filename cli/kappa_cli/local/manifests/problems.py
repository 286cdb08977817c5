"""Words what is wrong with a manifest: where, what, and how to fix it. Pure."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from kappa_core.function import Function


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    path: str
    message: str
    line: int | None = None
    document: int | None = None
    """Counted from 1; None where the file has only one."""
    field: str = ""
    """Such as `spec.scaling.keepWarm`."""

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        document = f" (document {self.document})" if self.document else ""
        field = f" {self.field}:" if self.field else ""
        return f"{where}{document}:{field} {self.message}"


def of_validation(error: ValidationError) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(location of the field, message) for each error that pydantic found in a Function."""
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        broken = detail.get("ctx", {}).get("broken")
        if broken:  # a rule of the core, with the field that breaks it
            for field, text in broken:
                yield (*location, field) if field else location, text
            continue
        message = _word(detail["type"], location, detail["msg"], detail.get("input"))
        yield location, message


def field_name(location: Sequence[str | int]) -> str:
    """`("spec", "env", 0, "name")` → `spec.env[0].name`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _word(kind: str, location: Sequence[str | int], message: str, given: Any) -> str:  # Any: whatever the YAML held
    if kind == "extra_forbidden":
        name = str(location[-1])
        known = _fields_at(location[:-1])
        close = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.lower() == name.lower()]
        hint = f"did you mean {close[0]}?" if close else f"its fields are {', '.join(known)}" if known else "remove it"
        return f"there is no such field; {hint}"
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        return f"{given!r} is not valid here{_example(location)}"
    if kind == "string_type":
        return f"{given!r} is {_type_name(given)} and must be text: put it in quotes"
    shown = repr(given)
    return f"{message[:1].lower()}{message[1:]}, and it is {shown if len(shown) <= 60 else shown[:57] + '…'}"


def _example(location: Sequence[str | int]) -> str:
    examples = {
        "timeout": ", such as 30s or 500ms",
        "keepWarm": ", such as 30s, 5m or 1h",
        "maxAge": ", such as 1h",
        "memory": ", such as 128Mi or 1Gi",
        "cpu": ", such as 250m or 1",
        "handler": ": write module.function, such as main.handler",
        "runtime": ", such as python3.13",
        "name": ": letters, digits and _, not starting with a digit"
        if "env" in location
        else ": lower-case letters, digits and dashes",
        "url": ": an http://, https:// or s3:// address",
        "sha256": ": 64 hexadecimal digits, as sha256sum prints them",
    }
    return examples.get(str(location[-1]), "")


def _type_name(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false to YAML"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else type(value).__name__


def _fields_at(location: Sequence[str | int]) -> list[str]:
    """The names that a Function may have at a location, as manifests write them."""
    model: type[BaseModel] = Function
    for part in location:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:  # Any: an annotation is any object
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
