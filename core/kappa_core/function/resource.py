"""The Function itself: metadata, spec and status."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from kappa_core import names
from kappa_core.function.base import DNS_LABEL, Model, Rule
from kappa_core.function.spec import FunctionSpec
from kappa_core.function.status import Condition, FunctionStatus


class ObjectMeta(Model):
    """The part of metav1.ObjectMeta that Kappa reads."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Function(Model):
    """Code that is invoked over HTTP and runs in pods, which exist while there is work and for a time after."""

    model_config = ConfigDict(extra="forbid")

    api_version: Literal["kappa.run/v1alpha1"] = "kappa.run/v1alpha1"
    kind: Literal["Function"] = "Function"
    metadata: ObjectMeta
    spec: FunctionSpec
    status: FunctionStatus = Field(default_factory=FunctionStatus)

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # ObjectMeta's pattern checks it here
            holds=lambda self: True,
            cel=f"self.metadata.name.size() <= 63 && self.metadata.name.matches('{DNS_LABEL}')",
            # no `field`: the API server accepts no path into metadata
            message="metadata.name: must be lower-case letters, digits and dashes, 63 characters at most",
        ),
    )

    @classmethod
    def from_cluster(cls, manifest: Mapping[str, Any]) -> Self:
        """A Function that an API server has accepted. Unknown fields come from a newer CRD and are ignored.

        Raises `pydantic.ValidationError` if it was accepted under another schema and cannot be read.
        """
        return cls.model_validate(manifest, extra="ignore")

    @property
    def key(self) -> str:
        return names.function_key(self.metadata.namespace, self.metadata.name)

    def condition(self, condition_type: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == condition_type), None)
