"""What becomes of a function's events: retries, and where the outcome goes."""

import re
from typing import ClassVar, Final

from pydantic import Field

from kappa_core.durations import parse_duration
from kappa_core.function.base import DNS_LABEL, Duration, Rule, SpecModel

_SUBJECT: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
"""No wildcards; nothing that begins as the server's own subjects ($) or inboxes (_) do."""
_URL: Final = r"^https?://([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$"
"""Without user:password@ (everybody who may read the Function would read it) and, by a rule of its own, without #fragment."""


class FunctionDestination(SpecModel):
    """Another Function, invoked asynchronously with the record as its event."""

    name: str = Field(pattern=DNS_LABEL, max_length=63, description="The Function, in the same namespace.")


class NatsDestination(SpecModel):
    """A subject of the NATS server that the installation's queue is on."""

    subject: str = Field(
        max_length=255,
        description="The subject, such as orders.done. A JetStream stream that listens to it confirms each message; without one it is sent once.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.subject.matches(r'{_SUBJECT}')",
            holds=lambda self: re.fullmatch(_SUBJECT[1:-1], self.subject) is not None,
            message="must be as orders.done is: letters, digits, _ and -, with dots between; no wildcards",
            field="subject",
        ),
        Rule(
            cel="!self.subject.startsWith('kappa.')",
            holds=lambda self: not self.subject.startswith("kappa."),
            message="must not begin with kappa., which is the queue itself",
            field="subject",
        ),
    )


class HttpDestination(SpecModel):
    """A web address, which gets a signed CloudEvent."""

    url: str = Field(
        max_length=2048,
        description="Where the record is POSTed, as a CloudEvent 1.0 signed as Standard Webhooks are; any 2xx answer takes it. Such as https://example.com/hook or http://receiver.team-a.svc/hook.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.url.matches(r'{_URL}') && !self.url.contains('#')",
            holds=lambda self: re.fullmatch(_URL[1:-1], self.url) is not None and "#" not in self.url,
            message="must be as https://example.com/hook is: no user:password@, spaces or #fragment",
            field="url",
        ),
    )


class Destination(SpecModel):
    """Where a record of how an event ended goes: exactly one of the fields."""

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
    """How events (invocations of type Event) are retried, and who hears of their end."""

    max_attempts: int = Field(default=3, ge=1, le=10, description="How often an event is tried in all. Default: 3.")
    max_age: Duration = Field(
        default="6h",
        description="How long an event may wait and be retried, as a duration between 1m and 6h. Default: 6h.",
    )
    on_success: Destination | None = Field(default=None, description="Who gets the record of an event that succeeded.")
    on_failure: Destination | None = Field(
        default=None, description="Who gets the record of an event that failed for good, or became too old."
    )
    dead_letter: Destination | None = Field(
        default=None,
        description="As onFailure, for a queue of failed events. Kappa keeps such events itself too: kappa async redrive runs them again.",
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
