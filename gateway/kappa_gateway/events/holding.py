"""How a pump and the run of an event that it holds see each other."""

from dataclasses import dataclass
from typing import Any, Protocol

from kappa_gateway.queue.protocol import EventLease


@dataclass(frozen=True, slots=True)
class History:
    """The event's history before this run, from its record."""

    attempts: int = 0
    postponements: int = 0
    """In a row."""
    error: dict[str, Any] | None = None
    """The last failure."""


class Holding(Protocol):
    """The pump's account of one event, as the event's run sees it."""

    def placed(self, placed: bool) -> None:
        """True: it has a slot, or needs none. False: it waits for one."""

    def hold(self, size: int) -> None:
        """The run holds this many bytes besides the payload, until it ends."""

    def attempted(self, *, available: bool) -> None:
        """Whether an attempt showed that the function (or destination) runs anything at all."""

    def due_in(self, delay: float) -> None:
        """The event comes again in `delay` seconds."""


class Run(Protocol):
    """One event (or delivery) from its lease to what follows."""

    @property
    def lease(self) -> EventLease: ...

    @property
    def history(self) -> History: ...

    async def run(self) -> None:
        """When it is cancelled, or raises because of a bug, nothing is settled, and the lease expires."""

    def withdraw(self) -> None:
        """Wait for a slot no longer; what runs at a pod is not touched."""
