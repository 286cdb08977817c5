"""Environment variables: Kubernetes' own EnvVar and EnvFromSource."""

from typing import ClassVar, Final

from pydantic import Field

from kappa_core.function.base import ConfigKey, ObjectName, Quantity, Rule, SpecModel

RESERVED_PREFIXES: Final = ("AWS_LAMBDA_", "KAPPA_")
RESERVED_NAMES: Final = ("_HANDLER", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR")
DIVISORS: Final = ("1m", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
"""The units of a resource that Kubernetes accepts (pkg/apis/core/validation)."""


class KeySelector(SpecModel):
    """A key of a Secret or ConfigMap in the Function's namespace."""

    name: ObjectName = Field(description="Name of the Secret or ConfigMap, in the Function's namespace.")
    key: ConfigKey = Field(description="Key in it.")
    optional: bool = Field(default=False, description="Whether the pod starts without it. Default: false.")


class FieldSelector(SpecModel):
    """A field of the pod."""

    field_path: str = Field(
        min_length=1, max_length=512, description="The field, such as status.podIP or metadata.namespace."
    )
    api_version: str = Field(
        default="v1", min_length=1, max_length=63, description="The schema that fieldPath is written in. Default: v1."
    )


class ResourceSelector(SpecModel):
    """A resource limit or request of the container."""

    resource: str = Field(min_length=1, max_length=253, description="The resource, such as limits.memory.")
    container_name: str | None = Field(
        default=None, max_length=63, description="The container. Default: the function's own."
    )
    divisor: Quantity | None = Field(
        default=None, description="The unit of the value, such as 1Mi, as a quantity. Default: 1."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.divisor) || string(self.divisor) in {list(DIVISORS)}",
            holds=lambda self: self.divisor is None or self.divisor in DIVISORS,
            message=f"must be one of {', '.join(DIVISORS)}",
            field="divisor",
        ),
    )


class EnvVarSource(SpecModel):
    """Where a variable's value comes from: exactly one of the fields."""

    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: FieldSelector | None = Field(default=None, description="A field of the pod.")
    resource_field_ref: ResourceSelector | None = Field(default=None, description="A resource of the container.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef), has(self.resourceFieldRef)]"
            ".filter(x, x).size() == 1",
            holds=lambda self: (
                [self.secret_key_ref, self.config_map_key_ref, self.field_ref, self.resource_field_ref].count(None) == 3
            ),
            message="set exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef",
        ),
    )


class EnvVar(SpecModel):
    """An environment variable, as in a Pod."""

    name: str = Field(
        pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", max_length=253, description="The variable's name, once per Function."
    )
    value: str | None = Field(
        default=None,
        max_length=32768,
        description="Its value. $(OTHER) refers to a variable defined before it; $$ is a dollar sign. Default: empty.",
    )
    value_from: EnvVarSource | None = Field(
        default=None, description="The source of its value instead: a Secret, a ConfigMap or the pod itself."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            holds=lambda self: self.value is None or self.value_from is None,
            message="set value or valueFrom, not both",
        ),
        Rule(
            cel=f"!{list(RESERVED_PREFIXES)}.exists(p, self.name.startsWith(p))"
            f" && !(self.name in {list(RESERVED_NAMES)})",
            holds=lambda self: not self.name.startswith(RESERVED_PREFIXES) and self.name not in RESERVED_NAMES,
            message="AWS_LAMBDA_*, KAPPA_*, _HANDLER, LAMBDA_TASK_ROOT and LAMBDA_RUNTIME_DIR are set by the runtime; "
            "choose another name",
            field="name",
        ),
    )


class ObjectReference(SpecModel):
    """A Secret or ConfigMap by name."""

    name: ObjectName = Field(description="Its name, in the Function's namespace.")
    optional: bool = Field(default=False, description="Whether the pod starts without it. Default: false.")


class EnvFromSource(SpecModel):
    """Every key of a Secret or ConfigMap as a variable: exactly one of the two."""

    prefix: str | None = Field(
        default=None,
        pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$",
        max_length=253,
        description="A prefix for each key. Default: none.",
    )
    secret_ref: ObjectReference | None = Field(default=None, description="A Secret.")
    config_map_ref: ObjectReference | None = Field(default=None, description="A ConfigMap.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.secretRef) != has(self.configMapRef)",
            holds=lambda self: (self.secret_ref is None) != (self.config_map_ref is None),
            message="set exactly one of secretRef and configMapRef",
        ),
    )
