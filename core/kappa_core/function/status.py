"""What the operator reports. Nobody else writes it, so it is read leniently."""

from typing import Literal

from pydantic import ConfigDict, Field

from kappa_core.function.base import Model, list_map


class StatusModel(Model):
    """A part of the status; fields of a newer version are ignored."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """Kubernetes' metav1.Condition, with its bounds."""

    type: str = Field(max_length=316, description="What this is about: Ready, CodeAvailable or Progressing.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the Function that this was seen for."
    )
    last_transition_time: str = Field(
        description="When status last changed, RFC 3339.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        max_length=1024,
        description="Why, in one word for programs.",
    )
    message: str = Field(max_length=32768, description="Why, for people, with how to mend it.")


class ColdStart(StatusModel):
    """How a cold start of this Function goes."""

    path: Literal["Pool", "Deployment"] = Field(
        description="Pool: a warm pod is given the code. Deployment: a pod is started."
    )
    reason: str = Field(description="Why this path.")


class FunctionStatus(StatusModel):
    """What the operator sees."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the spec that this status is about."
    )
    conditions: list[Condition] = Field(
        default=[], description="Ready, CodeAvailable and Progressing.", json_schema_extra=list_map("type")
    )
    replicas: int = Field(default=0, ge=0, description="Pods that exist now.")
    ready_replicas: int = Field(default=0, ge=0, description="Pods that are ready now.")
    url: str | None = Field(default=None, description="The function's URL.")
    cold_start: ColdStart | None = Field(default=None, description="How a cold start of this Function goes, and why.")
    verified_revision: str | None = Field(
        default=None, description="The hash of the last pod template that was seen to start."
    )
