"""What can go wrong between Kappa and an API server.

```
KubeError
├── NoCluster        no configuration to reach a cluster with
├── NotLeader        a write without the Lease
├── LeaseLost        the Lease could not be renewed
└── RequestFailed    one request failed; another try may succeed
    ├── ApiError     the API server refused it
    │   └── Expired  410: the resourceVersion or the list's continue token is too old
    └── Disconnected no answer, or only a part of one
```
"""

import json
from typing import Final

_LONGEST_RETRY_AFTER: Final = 30.0
"""Seconds; a proxy that asks for an hour gets this."""
_GONE: Final = 410


class KubeError(Exception):
    """Any of them."""


class NoCluster(KubeError):
    """There is no configuration to reach a cluster with; the message says where it was looked for."""


class NotLeader(KubeError):
    """The Lease is not held, so nothing may be written."""


class LeaseLost(KubeError):
    """The Lease could not be renewed in time, or another replica has it: stop at once."""


class RequestFailed(KubeError):
    """A request failed, and another try may succeed."""

    retry_after: float | None = None
    """Seconds that the API server asks to wait before that."""


class ApiError(RequestFailed):
    """The API server refused: `status` is the HTTP status, `reason` Kubernetes' word, `message` its sentence."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{f'{status} {reason}'.rstrip()}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Expired(ApiError):
    """410: only a new list helps."""


class Disconnected(RequestFailed):
    """The connection could not be made, broke or fell silent, or the answer cannot be read; the message says which."""


def api_error(status: int, reason: str, message: str, retry_after: float | None = None) -> ApiError:
    """The error for an HTTP status, or for the `Status` object that a watch brings."""
    return (Expired if status == _GONE else ApiError)(status, reason, message, retry_after)


def refusal(status: int, body: bytes, retry_after: str | None) -> ApiError:
    """The error for an answer with this body, a `Status` object as a rule, and this `Retry-After` header."""
    try:
        answer = json.loads(body)
        reason, message = str(answer["reason"] or "") if "reason" in answer else "", str(answer["message"])
    except (ValueError, TypeError, KeyError):
        reason, message = "", body.decode(errors="replace").strip()[:200] or "no message"
    seconds = min(float(retry_after), _LONGEST_RETRY_AFTER) if retry_after and retry_after.isdecimal() else None
    return api_error(status, reason, message, seconds)
