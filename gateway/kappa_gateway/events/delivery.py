"""One try of a delivery: a record on its way to a destination that is no Function, see `kappa_core.destinations`.

A delivery needs no record between tries: each time it is handed out is a try, so the queue's own count is the backoff's.
"""

from typing import TYPE_CHECKING, Protocol

from kappa_core import destinations
from kappa_core.event import Condition, DeadEvent, Event, GiveUp, Policy, Trouble, after_trouble, expired
from kappa_core.metrics import Outcome
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.queue.protocol import EventLease

if TYPE_CHECKING:
    from kappa_gateway.events.service import Events


class Deliverer(Protocol):
    """Brings records to destinations."""

    async def deliver(self, event: Event) -> None:
        """Returns once the destination has it. Raises `DeliveryFailed`."""


async def deliver(events: "Events", lease: EventLease) -> None:
    """Bring it there, or see to the next try, or bury it."""
    event = lease.event
    settings = events.gateway.settings
    policy = Policy(
        max_age=settings.delivery_max_age,
        first_backoff=settings.event_first_backoff,
        longest_backoff=settings.event_longest_backoff,
    )
    try:
        destination = destinations.kind_of(event).value
    except ValueError as error:
        await _bury(
            events,
            lease,
            Condition.RETRIES_EXHAUSTED,
            _error("Kappa.UnreadableEvent", f"it says no destination that this gateway knows: {error}"),
            0,
        )
        return
    tries = lease.receive_count
    if expired(now=events.clock(), received_at=event.received_at, policy=policy):
        message = f"the {destination} destination did not take the record within {policy.max_age:g} s"
        await _bury(events, lease, Condition.EVENT_AGE_EXCEEDED, _error("Kappa.DeliveryFailed", message), tries - 1)
        return
    counted = events.metrics_of(event)
    begun = events.monotonic()
    try:
        await events.deliverer.deliver(event)
    except DeliveryFailed as error:
        counted.deliver(destination, Outcome.FAILED)
        verdict = after_trouble(
            Trouble.UNAVAILABLE,
            now=events.clock(),
            received_at=event.received_at,
            attempts=0,
            postponements=tries - 1,
            policy=policy,
            retry_after=error.retry_after or 0.0,
        )
        if not error.retryable:
            await _bury(events, lease, Condition.RETRIES_EXHAUSTED, error.error(), tries)
        elif isinstance(verdict, GiveUp):
            await _bury(events, lease, verdict.condition, error.error(), tries)
        else:
            pump = events.pump(event.lane)
            pump.brake.pull(events.monotonic(), begun)
            await events.endings.give_back(lease, verdict.delay)
            pump.due_in(verdict.delay)
        return
    counted.deliver(destination, Outcome.SUCCESS)
    events.pump(event.lane).brake.release()
    await events.endings.leave(lease)


async def _bury(events: "Events", lease: EventLease, condition: Condition, error: dict[str, str], tries: int) -> None:
    await events.endings.bury(DeadEvent(lease.event, condition, tries, error, events.clock()))
    await events.endings.leave(lease)


def _error(error_type: str, message: str) -> dict[str, str]:
    return {"errorType": error_type, "errorMessage": message}
