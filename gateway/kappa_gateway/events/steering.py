"""Redrive and purge: what people do to events by hand. Each step may be repeated, and each call is bounded.

A redriven event is a new one: its own id (derived, so that a repetition adds nothing), a fresh start with all attempts
and its whole `maxAge`, and the attribute `redrive-of`. Under its old id the queue's deduplication and the final record
would stand in its way.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from kappa_core import destinations
from kappa_core.event import DeadEvent, Kind, Lane
from kappa_gateway.events.status import PAGE, REDRIVE_OF, redriven_id
from kappa_gateway.queue.protocol import Queue

if TYPE_CHECKING:
    from kappa_gateway.events.service import Events

MOST_AT_ONCE: Final = 250
"""Dead events that one call sees to; whoever asks may call again."""


@dataclass(slots=True)
class Redriven:
    done: list[tuple[str, str]] = field(default_factory=list)
    """(the dead event's id, its redrive's)."""
    not_found: list[str] = field(default_factory=list)
    more: bool = False
    """There are further ones that died by then."""


async def redrive(events: "Events", namespace: str, function: str, request_ids: Sequence[str]) -> Redriven:
    """Those of the dead letter, by id. Raises `QueueUnavailable`, `QueueFull`: what was done until then stays done."""
    result = Redriven()
    for request_id in request_ids:
        dead = await events.queue.dead_event(namespace, function, request_id)
        if dead is None:
            result.not_found.append(request_id)
        else:
            result.done.append(await _redrive_one(events, dead))
    return result


async def redrive_all(events: "Events", namespace: str, function: str, *, until: float) -> Redriven:
    """All that died by `until`, so that one that dies again meanwhile is not redriven again. Raises as `redrive`."""
    result = Redriven()
    async for page in _dead_by(events.queue, namespace, function, until):
        if len(result.done) >= MOST_AT_ONCE:
            result.more = True
            break
        result.done += await asyncio.gather(*(_redrive_one(events, dead) for dead in page))
    return result


async def purge(queue: Queue, namespace: str, function: str) -> int:
    """Drop every event that waits or runs; a run that has begun goes on."""
    return await queue.purge(Lane(Kind.INVOCATION, namespace, function))


async def purge_dead(queue: Queue, namespace: str, function: str, *, until: float) -> tuple[int, bool]:
    """Empty the dead letter of what died by `until`. How many that were, and whether there are more."""
    count = 0
    async for page in _dead_by(queue, namespace, function, until):
        if count >= MOST_AT_ONCE:
            return count, True
        count += sum(
            await asyncio.gather(*(queue.delete_dead_event(namespace, function, dead.event.id) for dead in page)),
        )
    return count, False


async def _redrive_one(events: "Events", dead: DeadEvent) -> tuple[str, str]:
    old = dead.event
    known = events.gateway.registry.get(old.lane.namespace, old.lane.function)
    mended = destinations.for_redrive(old, known.function if known is not None else None)
    event = replace(
        mended,
        id=redriven_id(old.id),
        received_at=time.time(),
        attributes={**mended.attributes, REDRIVE_OF: old.id},
        keyed=True,
    )
    await events.accept(event)  # False: an earlier try got so far
    await events.queue.delete_dead_event(old.lane.namespace, old.lane.function, old.id)
    return old.id, event.id


async def _dead_by(queue: Queue, namespace: str, function: str, until: float) -> AsyncIterator[list[DeadEvent]]:
    """Page by page; each page must be taken out of the dead letter before the next one is asked for."""
    seen: set[str] = set()
    while page := await queue.dead_events(namespace, function, limit=PAGE, until=until):
        fresh = [dead for dead in page if dead.event.id not in seen]
        if not fresh:
            return  # somebody buries them as fast as we take them out
        seen.update(dead.event.id for dead in fresh)
        yield fresh
