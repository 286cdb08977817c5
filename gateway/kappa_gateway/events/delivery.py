"""One try of a delivery, which sends an invocation record to a destination other than a Function: see
`kappa_core.destinations`.

A delivery needs no record between tries: each time it is received is a try, so the queue's own count is the backoff's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kappa_core import destinations
from kappa_core.event import Condition, DeadEvent, Event, GiveUp, Policy, Trouble, after_trouble, expired
from kappa_core.metrics import Outcome
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.events.holding import History, Holding
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.settlement import Settlement
from kappa_gateway.queue.protocol import EventLease


class Deliverer(Protocol):
    """Brings records to destinations."""

    async def deliver(self, event: Event) -> None:
        """Returns once the destination has it. Raises `DeliveryFailed`."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has taken it."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """The destination did not take it, and is to be asked again."""

    delay: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """It is not tried again."""

    condition: Condition
    error: dict[str, str]
    attempts: int


class DeliveryRunner:
    """What all deliveries share. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        deliverer: Deliverer,
        settlement: Settlement,
        counts: EventCounts,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self.settlement = settlement
        self._deliverer = deliverer
        self._counts = counts
        self._policy = policy
        self.clock = clock

    def make(self, holding: Holding, lease: EventLease) -> "DeliveryRun":
        return DeliveryRun(self, holding, lease)

    async def deliver(self, lease: EventLease) -> Delivered | Postponed | Undeliverable:
        event, policy = lease.event, self._policy
        attempts = lease.receive_count
        try:
            destination = destinations.kind_of(event).value
        except ValueError as error:
            message = f"it names no destination that this gateway knows: {error}"
            return Undeliverable(Condition.RETRIES_EXHAUSTED, _error("Kappa.UnreadableEvent", message), 0)
        if expired(now=self.clock(), received_at=event.received_at, policy=policy):
            message = f"the {destination} destination did not take the record within {policy.max_age:g} s"
            failure = _error("Kappa.DeliveryFailed", message)
            return Undeliverable(Condition.EVENT_AGE_EXCEEDED, failure, attempts - 1)
        counted = self._counts.of(event.lane)
        try:
            await self._deliverer.deliver(event)
        except DeliveryFailed as error:
            counted.delivery_tried(destination, Outcome.FAILED)
            if not error.retryable:
                return Undeliverable(Condition.RETRIES_EXHAUSTED, error.error(), attempts)
            verdict = after_trouble(
                Trouble.UNAVAILABLE,
                now=self.clock(),
                received_at=event.received_at,
                attempts=0,
                postponements=attempts - 1,
                policy=policy,
                retry_after=error.retry_after or 0.0,
            )
            if isinstance(verdict, GiveUp):
                return Undeliverable(verdict.condition, error.error(), attempts)
            return Postponed(verdict.delay)
        counted.delivery_tried(destination, Outcome.SUCCESS)
        return Delivered()


class DeliveryRun:
    """One try, and what follows. It waits for no slot, so there is nothing to withdraw."""

    def __init__(self, runner: DeliveryRunner, holding: Holding, lease: EventLease) -> None:
        self.lease = lease
        self.history = History()
        self._runner = runner
        self._holding = holding

    async def run(self) -> None:
        settlement, lease, holding = self._runner.settlement, self.lease, self._holding
        match await self._runner.deliver(lease):
            case Delivered():
                holding.attempted(available=True)
                await settlement.ack(lease)
            case Postponed(delay):
                holding.attempted(available=False)
                await settlement.nack(lease, delay)
                holding.due_in(delay)
            case Undeliverable(condition, error, attempts):
                await settlement.dead_letter(DeadEvent(lease.event, condition, attempts, error, self._runner.clock()))
                await settlement.ack(lease)

    def withdraw(self) -> None:
        pass


def _error(error_type: str, message: str) -> dict[str, str]:
    return {"errorType": error_type, "errorMessage": message}
