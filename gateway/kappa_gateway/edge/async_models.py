"""What the status API takes and answers, for FastAPI and its documentation."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from kappa_core.event import Status
from kappa_gateway.events.administration import MOST_AT_ONCE

MOST_IDS: Final = 1000


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class ListedInvocation(_Model):
    """An asynchronous invocation without its result."""

    request_id: str = Field(examples=["0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55"])
    status: Status = Field(
        description="`queued`: not yet tried. `running`: at a pod now. `retrying`: tried, and to be tried again at "
        "`nextAttempt`. `succeeded`. `failed`: every attempt failed, or none is possible. `expired`: `maxAge` was over "
        "before an attempt succeeded."
    )
    attempts: int = Field(
        description="Runs that ended, with success or with an error. A try that found no pod is not counted.",
        examples=[1],
    )
    next_attempt: str | None = Field(description="With `retrying`: when.", examples=["2026-11-23T14:05:09.250Z"])
    received_at: str = Field(description="When it was accepted.", examples=["2026-11-23T14:04:01.120Z"])
    updated_at: str = Field(description="When this was last news.", examples=["2026-11-23T14:04:09.250Z"])
    error: dict[str, Any] | None = Field(
        description="The last failure: the function's own error JSON, or `errorType` and `errorMessage`."
    )
    dead_letter: bool = Field(description="It is in the dead letter, and can be redriven.")
    delivery: bool = Field(default=False, description="A record that did not reach its destination, no invocation.")
    redrive_of: str | None = Field(default=None, description="It is the redrive of this one.")
    redriven_as: str | None = Field(default=None, description="It was redriven, as this one.")


class Invocation(ListedInvocation):
    """What has become of an asynchronous invocation."""

    result: Any = Field(description="What the function answered: JSON, or a string if the answer is not JSON.")
    result_truncated: bool = Field(description="Only its beginning was kept, as a string.")


class Invocations(_Model):
    invocations: list[ListedInvocation]


class RedriveRequest(_Model):
    """Which of the dead letter; one of the two."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_ids: list[str] | None = Field(default=None, max_length=MOST_IDS, description="These.")
    all: bool = Field(default=False, description="All of them.")
    until: float | None = Field(
        default=None, description="With `all`: those that died by then, seconds since the epoch. Default: now."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> "RedriveRequest":
        if (self.request_ids is not None) == self.all:
            raise ValueError('give either {"requestIds": ["…"]} or {"all": true}')
        if self.until is not None and not self.all:
            raise ValueError("until goes with all")
        return self


class RedrivenEvent(_Model):
    request_id: str = Field(description="The dead one's.")
    redriven_as: str = Field(description="The id under which it runs again.")


class RedriveResult(_Model):
    redriven: list[RedrivenEvent]
    not_found: list[str] = Field(description="Ids that are not in the dead letter (any more).")
    more: bool = Field(description=f"With `all`: there are more than {MOST_AT_ONCE}; ask again, with `until`.")
    until: float


class PurgeResult(_Model):
    purged: int
    more: bool = Field(description="Of a dead letter: there are more; ask again.")
