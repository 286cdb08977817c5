"""The CustomResourceDefinition, made from the Function model.

`crd()` returns a plain dict, which `scripts/generate.py` writes as YAML. Kubernetes accepts only *structural* schemas,
and pydantic's JSON schema is not one. So references are resolved, and `title`, `anyOf` with null and
`additionalProperties: false` are removed (the API server itself prunes or refuses unknown fields). See
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from kappa_core import names
from kappa_core.function import Function, FunctionSpec, FunctionStatus

Schema = dict[str, Any]
"""A JSON schema, or a part of one."""

PRINTER_COLUMNS: Final[tuple[Schema, ...]] = (
    {
        "name": "Runtime",
        "type": "string",
        "jsonPath": ".spec.runtime",
        "description": "The language runtime; empty for an image.",
    },
    {
        "name": "Ready",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
        "description": "Whether the function can be invoked.",
    },
    {
        "name": "Replicas",
        "type": "integer",
        "jsonPath": ".status.replicas",
        "description": "Pods that exist now.",
    },
    {"name": "URL", "type": "string", "jsonPath": ".status.url", "description": "The function's URL."},
    {
        "name": "Age",
        "type": "date",
        "jsonPath": ".metadata.creationTimestamp",
        "description": "When the Function was created.",
    },
    {
        "name": "Reason",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
        "description": "Why it is ready, or why it is not.",
        "priority": 1,  # kubectl get -o wide
    },
    {
        "name": "Cold-Start",
        "type": "string",
        "jsonPath": ".status.coldStart.path",
        "description": "How a cold start gets its pod: Pool or Deployment; status.coldStart.reason says why.",
        "priority": 1,
    },
)

_ROOT_DESCRIPTIONS: Final = {
    "apiVersion": "The version of this schema: kappa.run/v1alpha1.",
    "kind": "Function.",
}


def crd() -> Schema:
    """The whole CustomResourceDefinition `functions.kappa.run`."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": names.CRD_NAME},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["fn", "fns"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [dict(column) for column in PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": function_schema()},
                }
            ],
        },
    }


def function_schema() -> Schema:
    """The structural schema of a Function."""
    return {
        "description": _text(Function),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": _ROOT_DESCRIPTIONS["apiVersion"], "type": "string"},
            "kind": {"description": _ROOT_DESCRIPTIONS["kind"], "type": "string"},
            "metadata": {"type": "object"},  # Kubernetes describes it, and allows nothing else here
            "spec": structural(FunctionSpec),
            "status": _without_defaults(structural(FunctionStatus)),
        },
        "x-kubernetes-validations": [rule.to_kubernetes() for rule in Function.RULES],
    }


def structural(model: type[BaseModel]) -> Schema:
    """A model as a structural schema, with all references resolved."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_WithCelRules)
    return _rewrite(schema, schema.get("$defs", {}))


class _WithCelRules(GenerateJsonSchema):
    """Adds each class's `RULES` to its schema."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        json_schema = super().model_schema(schema)
        rules = getattr(schema["cls"], "RULES", ())
        if rules:
            json_schema["x-kubernetes-validations"] = [rule.to_kubernetes() for rule in rules]
        return json_schema


_COPIED: Final = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
_DROPPED: Final = {"title", "$defs", "$ref", "anyOf", "const"}


def _rewrite(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """`schema` as a structural schema. Raises `ValueError` for an unknown keyword, so that a new kind of field cannot
    lose its validation silently."""
    schema = _resolve(schema, definitions)
    out: Schema = {}
    if "description" in schema:
        out["description"] = " ".join(schema["description"].split())
    if "default" in schema and (default := _default(schema)) is not None:
        out["default"] = default
    out.update({key: schema[key] for key in _COPIED if key in schema})
    if "const" in schema:
        out["enum"] = [schema["const"]]
    if "properties" in schema:
        out["properties"] = {name: _rewrite(part, definitions) for name, part in schema["properties"].items()}
        if isinstance(schema.get("default"), dict):
            # The default in full: the API server checks the rules against it before it fills in the fields' defaults.
            defaults = {name: part["default"] for name, part in out["properties"].items() if "default" in part}
            out |= {"default": defaults} if defaults else {}
        if schema.get("required"):
            out["required"] = list(schema["required"])
    elif schema.get("type") == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict) and values.get("type"):
            out["additionalProperties"] = _rewrite(values, definitions)
        else:
            out["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in schema:
        out["items"] = _rewrite(schema["items"], definitions)
        out.setdefault("x-kubernetes-list-type", "atomic")
    unknown = schema.keys() - set(_COPIED) - _DROPPED - {
        "description", "default", "properties", "required", "additionalProperties", "items",
    }  # fmt: skip
    if unknown:
        raise ValueError(f"a structural schema has no form for {sorted(unknown)} in {schema}")
    return out


def _resolve(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """`schema` with its `$ref` resolved and `anyOf: [X, null]` replaced by X. Keywords beside them take precedence."""
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise ValueError(f"a field has one type in a structural schema: {schema}")
        return _resolve({**options[0], **{key: value for key, value in schema.items() if key != "anyOf"}}, definitions)
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _resolve({**target, **beside}, definitions)
    return schema


def _default(schema: Schema) -> Any:
    """The default for the schema; None if it means the same as absence ("", false, [], {}, null)."""
    default = schema["default"]
    return None if default in ("", [], {}) or isinstance(default, (bool, dict)) else default


def _without_defaults(schema: Schema) -> Schema:
    """For the status, which only the operator writes: a default would look as if it had."""
    out = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in out:
        out["properties"] = {name: _without_defaults(part) for name, part in out["properties"].items()}
    if "items" in out:
        out["items"] = _without_defaults(out["items"])
    return out


def _text(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())
