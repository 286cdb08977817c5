"""The rules for retries that apply to an event: the function's and the installation's."""

from dataclasses import replace
from typing import Final

from kappa_core.durations import parse_duration
from kappa_core.event import Policy
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.settings import Settings

ABANDONED_AFTER: Final = parse_duration("6h")
"""Seconds: the longest `maxAge`, for events whose function does not exist."""


class Policies:
    def __init__(self, settings: Settings) -> None:
        self.deliveries = Policy(
            max_age=settings.delivery_max_age,
            first_backoff=settings.event_first_backoff,
            longest_backoff=settings.event_longest_backoff,
        )
        self._without_function = Policy(
            max_age=ABANDONED_AFTER,
            retry_delays=tuple(settings.event_retry_delays),
            first_backoff=settings.event_first_backoff,
            longest_backoff=settings.event_longest_backoff,
        )

    def of(self, function: FunctionState | None) -> Policy:
        """For invocations of this function; None: it does not exist."""
        if function is None or function.manifest is None:
            return self._without_function
        wanted = function.manifest.spec.async_
        return replace(self._without_function, max_attempts=wanted.max_attempts, max_age=wanted.max_age_seconds)
