"""Asynchronous invocations (`Event`) without I/O: what an event is, and what follows when it was tried.

An *event* is one asynchronous invocation. Its id is the request id that the caller got, and `context.aws_request_id` in
every attempt. An *attempt* is a run of the function that the function itself ended, well or not. A *postponement* is a
try that did not get so far (throttled, no pod, a system error): it uses up no attempt.
The rules are Lambda's: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

MAX_BACKOFF_EXPONENT: Final = 30
# Attributes of an invocation of a web server (`protocol: http`): the request as the server is to see it.
HTTP_METHOD: Final = "http.method"
HTTP_TARGET: Final = "http.target"
"""Path and query."""
HTTP_HEADERS: Final = "http.headers"
"""JSON, `[[name, value], …]`: all but `Content-Length`."""
_ID_NAMESPACE: Final = uuid.UUID("6c7cf9a4-6fd5-5a53-9a3c-2f6d4a2c1b0e")


class Status(StrEnum):
    """What `GET …/async/{requestId}` reports of an event."""

    QUEUED = "queued"
    """Accepted, and not tried yet."""
    RUNNING = "running"
    RETRYING = "retrying"
    """Tried without success; the next attempt is at `nextAttempt`."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Every attempt failed, or none is possible."""
    EXPIRED = "expired"
    """`maxAge` came first."""

    @property
    def final(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.EXPIRED)


class Condition(StrEnum):
    """How an event ended, in Lambda's words: part of its record for destinations."""

    SUCCESS = "Success"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    EVENT_AGE_EXCEEDED = "EventAgeExceeded"
    ZERO_RESERVED_CONCURRENCY = "ZeroReservedConcurrency"
    """Lambda's name for a function that is switched off; here its `maxReplicas` is 0."""
    RECURSIVE_INVOCATION = "RecursiveInvocation"
    """A chain of destinations that was cut, see `kappa_core.destinations.MAX_HOPS`."""


class Kind(StrEnum):
    """What a lane holds: invocations to run, or deliveries to a destination that is not a Function."""

    INVOCATION = "invocation"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True)
class Lane:
    """The part of the queue for one function and kind, so that no function waits behind another's events."""

    kind: Kind
    namespace: str
    function: str

    def __str__(self) -> str:
        return f"{self.kind.value}/{self.namespace}/{self.function}"


@dataclass(frozen=True, slots=True)
class Event:
    """What waits in a lane. `payload` is the bytes as they came; `attributes` (short texts) say how to use them."""

    id: str
    lane: Lane
    payload: bytes
    received_at: float
    """Seconds since the epoch. A redriven event gets a new time."""
    attributes: dict[str, str] = field(default_factory=dict)
    """ASCII keys and text values. Invocations: headers for the pod by name, and `http.*` for requests to web servers.
    Deliveries: `destination` (JSON), and what its message needs."""
    keyed: bool = False
    """Whether the id comes from an idempotency key, so that a caller may submit it again."""


@dataclass(frozen=True, slots=True)
class Record:
    """The state of an event without its payload: written after each try that did not end it, and when it ended."""

    namespace: str
    function: str
    id: str
    status: Status
    received_at: float
    updated_at: float
    attempts: int = 0
    """Attempts so far."""
    postponements: int = 0
    """Postponements in a row."""
    receive_count: int = 0
    """How often the queue had delivered it when this was written: one more says that nobody tried it in between."""
    next_attempt: float | None = None
    """Seconds since the epoch; with RETRYING only."""
    result: str | None = None
    """The function's answer as text (JSON, mostly); with SUCCEEDED only."""
    result_truncated: bool = False
    error: dict[str, Any] | None = None
    """The last failure: the function's own error JSON, or `{"errorType", "errorMessage"}`."""

    def encode(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        known = {name: value for name, value in fields.items() if value is not None and value is not False}
        return json.dumps(known, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes | str) -> "Record":
        """Raises `ValueError` for what is no record. Fields it does not know are ignored: a newer gateway wrote
        them."""
        try:
            raw = json.loads(data)
            known = {name: raw[name] for name in cls.__slots__ if name in raw}
            return cls(**{**known, "status": Status(raw["status"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a record of an event: {error!r} in {data[:200]!r}") from error


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """An event that ended without success, kept complete so that it can be redriven."""

    event: Event
    condition: Condition
    attempts: int
    error: dict[str, Any]
    died_at: float
    """Seconds since the epoch."""


# -- what follows a try


class Trouble(StrEnum):
    """Why a try did not succeed."""

    FUNCTION_ERROR = "function_error"
    """The function ran and failed: this was an attempt."""
    UNAVAILABLE = "unavailable"
    """Throttled, no pod, a system error: this was a postponement."""
    REFUSED = "refused"
    """`maxReplicas` is 0: waiting would not help."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for retries, from the function and the installation. Seconds."""

    max_attempts: int = 3
    max_age: float = 6 * 3600.0
    retry_delays: Sequence[float] = (60.0, 120.0)
    """After the first, second, … function error; the last one also for all that follow."""
    first_backoff: float = 1.0
    longest_backoff: float = 300.0
    """After postponements: the first, doubled each time up to the longest."""


@dataclass(frozen=True, slots=True)
class Retry:
    delay: float
    """Seconds from now."""
    attempts: int
    postponements: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    condition: Condition
    status: Status
    attempts: int


def after_trouble(
    trouble: Trouble,
    *,
    now: float,
    received_at: float,
    attempts: int,
    postponements: int,
    policy: Policy,
    retry_after: float = 0.0,
) -> Retry | GiveUp:
    """What to do with an event after a try without success. `attempts` and `postponements` are those before this try.

    Looks ahead: an event whose next try would be after `max_age` is given up now. `retry_after` (seconds) is what a web
    server asked for: a postponement lasts at least that long, up to `longest_backoff`.
    """
    if trouble is Trouble.FUNCTION_ERROR:
        attempts += 1
        if attempts >= policy.max_attempts:
            return GiveUp(Condition.RETRIES_EXHAUSTED, Status.FAILED, attempts)
        delay = policy.retry_delays[min(attempts, len(policy.retry_delays)) - 1] if policy.retry_delays else 0.0
        postponements = 0
    elif trouble is Trouble.REFUSED:
        return GiveUp(Condition.ZERO_RESERVED_CONCURRENCY, Status.FAILED, attempts)
    else:
        delay = backoff(postponements, policy.first_backoff, policy.longest_backoff)
        delay = max(delay, min(retry_after, policy.longest_backoff))
        postponements += 1
    if now + delay > received_at + policy.max_age:
        return GiveUp(Condition.EVENT_AGE_EXCEEDED, Status.EXPIRED, attempts)
    return Retry(delay, attempts, postponements)


def expired(*, now: float, received_at: float, policy: Policy) -> bool:
    """Whether an event is too old to be tried."""
    return now > received_at + policy.max_age


def backoff(before: int, first: float, longest: float) -> float:
    """Seconds to wait after `before` waits in a row: `first`, doubled each time, at most `longest`."""
    return min(first * 2.0 ** min(before, MAX_BACKOFF_EXPONENT), longest)


# -- ids


def keyed_id(namespace: str, function: str, key: str) -> str:
    """The request id of a submission with an idempotency key: the same for the same key, whichever gateway it
    reaches."""
    return _uuid5(f"{namespace}/{function}/{key}")


def derived_id(request_id: str, purpose: str) -> str:
    """The id of what follows from an event (a delivery, a destination's invocation): the same each time it is
    derived."""
    return _uuid5(f"{request_id} {purpose}")


def _uuid5(name: str) -> str:
    """`str(uuid.uuid5(_ID_NAMESPACE, name))`, in a quarter of its time: each event of an AWS SDK has a key."""
    digest = bytearray(hashlib.sha1(_ID_NAMESPACE.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
