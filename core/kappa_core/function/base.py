"""The base of all classes of the Function model: how fields are read, rules over several fields, Kubernetes' types."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from kappa_core.durations import DURATION_PATTERN, QUANTITY_PATTERN

DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""The names of most Kubernetes objects (RFC 1123), at most 253 characters."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that a pattern or a bound cannot express, in two forms: CEL for the API server, Python for everything
    else.

    `tests/cluster/test_crd.py` compares the two.
    """

    cel: str
    """https://kubernetes.io/docs/reference/using-api/cel/; `self` is the object that the rule's class describes."""
    holds: Callable[[Any], bool]
    """The same rule for an instance of the class. `Any`, because the class is not defined yet at this point."""
    message: str
    field: str | None = None
    """The field that breaks the rule, such as `timeout`; None: the whole object."""

    def to_kubernetes(self) -> dict[str, str]:
        """An entry of `x-kubernetes-validations`."""
        rule = {"rule": self.cel, "message": self.message}
        return rule | {"fieldPath": f".{self.field}"} if self.field else rule

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class Model(BaseModel):
    """camelCase in manifests, snake_case in Python. As for the API server, null means absent."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            known = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
            return {key: part for key, part in value.items() if part is not None or key not in known}
        return value

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        """Raises one error of type `value_error` for all broken rules, each as `(field or None, message)` in its
        context."""
        broken = [rule for rule in self.RULES if not rule.holds(self)]
        if broken:
            raise PydanticCustomError(
                "value_error",
                "{text}",
                {"text": "; ".join(map(str, broken)), "broken": [(rule.field, rule.message) for rule in broken]},
            )
        return self


class SpecModel(Model):
    """A part of a manifest's spec: an unknown field is an error, and `"1"` is not `1`."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _without_nulls(value: Any) -> Any:
    return {key: part for key, part in value.items() if part is not None} if isinstance(value, dict) else value


Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, max_length=32)]
Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    BeforeValidator(_number_as_text),  # cpu: 1 is a number in YAML
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
ObjectName = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN, max_length=253)]
ConfigKey = Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
"""A key of a Secret or ConfigMap."""
KubernetesObject = dict[str, Any]
"""A part of Kubernetes' own API that is passed on unchanged (`x-kubernetes-preserve-unknown-fields`)."""
StringMap = Annotated[dict[str, str], Field(max_length=64), BeforeValidator(_without_nulls)]
"""Labels and the like."""


def list_map(*keys: str) -> dict[str, Any]:
    """For `json_schema_extra`: a list whose entries these keys identify. Server-side apply merges by them."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
