"""docs/function-reference.md, generated from the Function's schema."""

from typing import Any

Schema = dict[str, Any]

HEAD = """\
<!-- Generated from core/kappa_core/function/ by `make generate`: edit that, not this. -->
# Function reference

Every field of a `Function` (`kappa.run/v1alpha1`). `kubectl explain function.spec.scaling.keepWarm` prints the same.
Durations and quantities have Kubernetes' notation: `500ms`, `30s`, `5m`, `1h30m`; `128Mi`, `1Gi`, `250m`. The
[task pages](../README.md#documentation) say how to use the fields.
"""


def reference(schema: Schema) -> str:
    """The whole page, as Markdown."""
    parts = [HEAD]
    for name in ("spec", "status"):
        parts += _section(name, schema["properties"][name])
    return "\n".join(parts)


def _section(place: str, schema: Schema) -> list[str]:
    parts = [f"## {place}\n", f"{schema['description']}\n"]
    rules = [_rule(rule) for rule in schema.get("x-kubernetes-validations", ())]
    if rules:
        parts.append("\n".join(f"- {rule}" for rule in rules) + "\n")
    rows = ["| field | type | meaning |", "| --- | --- | --- |"]
    inner: list[str] = []
    for name, field in schema["properties"].items():
        required = ", required" if name in schema.get("required", ()) else ""
        rows.append(f"| `{name}` | {_type(field)}{required} | {_cell(_text(field))} |")
        items = field.get("items", {})
        if "properties" in field:
            inner += _section(f"{place}.{name}", field)
        elif "properties" in items:
            inner += _section(f"{place}.{name}[]", items)
    return [*parts, "\n".join(rows) + "\n", *inner]


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    if "additionalProperties" in field:
        return "map of strings"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    return {"boolean": "true or false"}.get(field["type"], str(field["type"]))


def _text(field: Schema) -> str:
    text: str = field["description"]
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        text += f" {low} to {high:,}."
    return text


def _rule(rule: Schema) -> str:
    field = rule.get("fieldPath", "").removeprefix(".")
    message = rule["message"]
    return f"`{field}`: {message}." if field else f"{message[:1].upper()}{message[1:]}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
