"""The status, which only the operator writes. It is read leniently."""

from typing import Literal

from pydantic import ConfigDict, Field

from kappa_core.function.base import Model, list_map


class StatusModel(Model):
    """A part of the status. Fields of a newer version are ignored."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """Kubernetes' metav1.Condition, with its bounds."""

    type: str = Field(max_length=316, description="The condition's type: Ready, CodeAvailable or Progressing.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the Function that this was observed for."
    )
    last_transition_time: str = Field(
        description="When status last changed, RFC 3339.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        max_length=1024,
        description="The reason, as one word for programs.",
    )
    message: str = Field(max_length=32768, description="The reason for people, and how to mend it.")


class ColdStart(StatusModel):
    """The path of this Function's cold starts."""

    path: Literal["Pool", "Deployment"] = Field(
        description="Pool: a warm pod gets the function. Deployment: a pod is started."
    )
    reason: str = Field(description="Why this path.")


class FunctionStatus(StatusModel):
    """The observed state of a Function."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the spec that this status describes."
    )
    conditions: list[Condition] = Field(
        default=[], description="Ready, CodeAvailable and Progressing.", json_schema_extra=list_map("type")
    )
    replicas: int = Field(default=0, ge=0, description="Pods that exist now.")
    ready_replicas: int = Field(default=0, ge=0, description="Pods that are ready now.")
    url: str | None = Field(default=None, description="The function's URL.")
    cold_start: ColdStart | None = Field(
        default=None, description="The path of this Function's cold starts, and the reason."
    )
    verified_revision: str | None = Field(
        default=None, description="The last revision of which a pod has started: the hash of its pod template."
    )
