"""Asynchronous invocations of a function: retries, and destinations for the outcome."""

import re
from typing import ClassVar, Final

from pydantic import Field

from kappa_core.durations import parse_duration
from kappa_core.function.base import DNS_LABEL, Duration, Rule, SpecModel

_SUBJECT: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
"""No wildcards, and not the server's own subjects (which begin with $) or inboxes (_)."""
_URL: Final = r"^https?://([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$"
"""Without user:password@, which everybody who may read the Function could read. A rule excludes #fragment."""


class FunctionDestination(SpecModel):
    """Another Function, invoked asynchronously with the invocation record as its payload."""

    name: str = Field(pattern=DNS_LABEL, max_length=63, description="The Function, in the same namespace.")


class NatsDestination(SpecModel):
    """A subject on the NATS server of the installation's queue."""

    subject: str = Field(
        max_length=255,
        description="The subject, such as orders.done. If a JetStream stream listens to it, the stream confirms each "
        "message; otherwise the message is sent once.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.subject.matches(r'{_SUBJECT}')",
            holds=lambda self: re.fullmatch(_SUBJECT[1:-1], self.subject) is not None,
            message="must be like orders.done: letters, digits, _ and -, separated by dots; no wildcards",
            field="subject",
        ),
        Rule(
            cel="!self.subject.startsWith('kappa.')",
            holds=lambda self: not self.subject.startswith("kappa."),
            message="must not begin with kappa., which the queue uses",
            field="subject",
        ),
    )


class HttpDestination(SpecModel):
    """A web address that gets a signed CloudEvent."""

    url: str = Field(
        max_length=2048,
        description="The address to which the record is POSTed as a CloudEvent 1.0, signed according to Standard "
        "Webhooks. Any 2xx answer accepts it. Such as https://example.com/hook or "
        "http://receiver.team-a.svc/hook.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.url.matches(r'{_URL}') && !self.url.contains('#')",
            holds=lambda self: re.fullmatch(_URL[1:-1], self.url) is not None and "#" not in self.url,
            message="must be like https://example.com/hook, without user:password@, spaces and #fragment",
            field="url",
        ),
    )


class Destination(SpecModel):
    """The destination of an invocation record: exactly one of the fields."""

    function: FunctionDestination | None = Field(default=None, description="Another Function.")
    nats: NatsDestination | None = Field(default=None, description="A NATS subject.")
    http: HttpDestination | None = Field(default=None, description="A web address.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.function), has(self.nats), has(self.http)].filter(x, x).size() == 1",
            holds=lambda self: [self.function, self.nats, self.http].count(None) == 2,
            message="set exactly one of function, nats and http",
        ),
    )


class AsyncInvocation(SpecModel):
    """How events (asynchronous invocations) are retried, and where their outcome goes."""

    max_attempts: int = Field(
        default=3, ge=1, le=10, description="The most attempts for an event, including the first. Default: 3."
    )
    max_age: Duration = Field(
        default="6h",
        description="How long an event may wait and be retried, as a duration between 1m and 6h. Default: 6h.",
    )
    on_success: Destination | None = Field(
        default=None, description="The destination for the record of an event that succeeded."
    )
    on_failure: Destination | None = Field(
        default=None, description="The destination for the record of an event that failed for good or became too old."
    )
    dead_letter: Destination | None = Field(
        default=None,
        description="Like onFailure, for a queue of failed events. Kappa itself keeps failed events too, and kappa "
        "async redrive runs them again.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="duration(self.maxAge) >= duration('1m') && duration(self.maxAge) <= duration('6h')",
            holds=lambda self: 60 <= self.max_age_seconds <= 6 * 3600,
            message="must be between 1m and 6h",
            field="maxAge",
        ),
    )

    @property
    def max_age_seconds(self) -> float:
        return parse_duration(self.max_age)
