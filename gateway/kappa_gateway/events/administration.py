"""What people ask of events by hand: status, redrive and purge. Each step may be repeated, each call is bounded.

A redriven event is a new one: with its own id (derived, so that a repetition adds nothing), all attempts, the full
`maxAge`, and the attribute `redrive-of`. It cannot keep its old id: the queue would drop it as a duplicate, and a final
record says that it has ended.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from kappa_core import destinations
from kappa_core.event import DeadEvent, Event, Kind, Lane, Status
from kappa_gateway.events import status
from kappa_gateway.events.status import PAGE, REDRIVE_OF, Entry, redriven_id
from kappa_gateway.pods.functions import Functions
from kappa_gateway.queue.protocol import Queue

MOST_AT_ONCE: Final = 250
"""Dead events that one call handles; whoever asks may call again."""


@dataclass(slots=True)
class Redriven:
    done: list[tuple[str, str]] = field(default_factory=list)
    """(the dead event's id, its redrive's)."""
    not_found: list[str] = field(default_factory=list)
    more: bool = False
    """There are further ones that died by then."""


class Administration:
    """Of a function's events, by its namespace and name. Every method raises `QueueUnavailable`, the redrives
    `QueueFull` too: what was done until then stays done. `accept` takes an event in; `clock` gives seconds since the
    epoch."""

    def __init__(
        self,
        queue: Queue,
        functions: Functions,
        *,
        accept: Callable[[Event], Awaitable[bool]],
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._functions = functions
        self._accept = accept
        self._clock = clock

    async def find(self, namespace: str, function: str, request_id: str) -> Entry | None:
        """What became of an event; None: nothing is known of it, or no longer."""
        return await status.find(self._queue, namespace, function, request_id)

    async def newest(self, namespace: str, function: str, *, status_: Status | None, limit: int) -> list[Entry]:
        """Those that wait or run, and those that ended, newest first; with `status_` only those."""
        return await status.newest(self._queue, namespace, function, status=status_, limit=limit)

    async def redrive(self, namespace: str, function: str, request_ids: Sequence[str]) -> Redriven:
        """Those of the dead letter, by id."""
        result = Redriven()
        for request_id in request_ids:
            dead = await self._queue.dead_event(namespace, function, request_id)
            if dead is None:
                result.not_found.append(request_id)
            else:
                result.done.append(await self._redrive_one(dead))
        return result

    async def redrive_all(self, namespace: str, function: str, *, until: float) -> Redriven:
        """All that died by `until` (seconds since the epoch): one that dies again meanwhile is not redriven again."""
        result = Redriven()
        async for page in self._dead_by(namespace, function, until):
            if len(result.done) >= MOST_AT_ONCE:
                result.more = True
                break
            result.done += await asyncio.gather(*(self._redrive_one(dead) for dead in page))
        return result

    async def purge(self, namespace: str, function: str) -> int:
        """Drop every event that waits or runs; a run that has begun goes on. Returns how many were dropped."""
        return await self._queue.purge(Lane(Kind.INVOCATION, namespace, function))

    async def purge_dead(self, namespace: str, function: str, *, until: float) -> tuple[int, bool]:
        """Empty the dead letter of what died by `until`. How many that were, and whether there are more."""
        count = 0
        async for page in self._dead_by(namespace, function, until):
            if count >= MOST_AT_ONCE:
                return count, True
            count += sum(
                await asyncio.gather(
                    *(self._queue.delete_dead_event(namespace, function, dead.event.id) for dead in page)
                )
            )
        return count, False

    # -- inside

    async def _redrive_one(self, dead: DeadEvent) -> tuple[str, str]:
        old = dead.event
        known = self._functions.get(old.lane.namespace, old.lane.function)
        adapted = destinations.for_redrive(old, known.manifest if known is not None else None)
        event = replace(
            adapted,
            id=redriven_id(old.id),
            received_at=self._clock(),
            attributes={**adapted.attributes, REDRIVE_OF: old.id},
            keyed=True,
        )
        await self._accept(event)  # False: an earlier call got so far
        await self._queue.delete_dead_event(old.lane.namespace, old.lane.function, old.id)
        return old.id, event.id

    async def _dead_by(self, namespace: str, function: str, until: float) -> AsyncIterator[list[DeadEvent]]:
        """Page by page; each page must be taken out of the dead letter before the next one is asked for."""
        seen: set[str] = set()
        while page := await self._queue.dead_events(namespace, function, limit=PAGE, until=until):
            fresh = [dead for dead in page if dead.event.id not in seen]
            if not fresh:
                return  # they are dead-lettered as fast as they are taken out
            seen.update(dead.event.id for dead in fresh)
            yield fresh
