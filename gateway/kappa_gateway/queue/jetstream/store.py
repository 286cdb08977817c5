"""Records and the dead letter: streams that keep the newest message of each id."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from kappa_core.event import DeadEvent, Record
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import dead_headers, decode_dead
from kappa_gateway.queue.jetstream.management import Manager
from kappa_gateway.queue.jetstream.names import Names, is_id, is_name
from kappa_gateway.queue.jetstream.publishing import Publishing
from kappa_gateway.queue.jetstream.stored import Stored, delete, last_of, newest
from kappa_gateway.queue.jetstream.streams import shared_streams
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Store:
    def __init__(self, settings: Settings, names: Names, connection: Connection, publishing: Publishing) -> None:
        self._settings: Final = settings
        self._names: Final = names
        self._connection: Final = connection
        self._publishing: Final = publishing
        self._manager: Final = Manager(connection, settings)
        self._streams: Final = {config.name: config for config in shared_streams(settings, names)}

    # -- records

    async def save_record(self, record: Record) -> None:
        names = self._names
        where, stream = (names.record, names.records) if record.status.final else (names.in_progress, names.progress)
        subject = where(record.namespace, record.function, record.id)
        await self._publishing.store(self._streams[stream], subject, record.encode(), {})

    async def record(self, namespace: str, function: str, event_id: str) -> Record | None:
        if not _can_be(namespace, function, event_id):
            return None
        names = self._names
        # In this order: else a final one could come unseen in between.
        other = await self._last(names.progress, names.in_progress(namespace, function, event_id), _record)
        final = await self._last(names.records, names.record(namespace, function, event_id), _record)
        return _newer(final, other)

    async def records(self, namespace: str, function: str, *, limit: int) -> list[Record]:
        if not _can_be(namespace, function, "any"):
            return []
        names = self._names
        final, other = await asyncio.gather(
            self._newest(names.records, names.record(namespace, function, None), limit, _record),
            self._newest(names.progress, names.in_progress(namespace, function, None), limit, _record),
        )
        by_id: dict[str, Record] = {record.id: record for record in final}
        for record in other:
            by_id[record.id] = _newer(by_id.get(record.id), record) or record
        return sorted(by_id.values(), key=lambda record: record.updated_at, reverse=True)[:limit]

    # -- the dead letter

    async def dead_letter(self, dead: DeadEvent) -> None:
        event = dead.event
        subject = self._names.dead_event(event.lane.namespace, event.lane.function, event.id)
        await self._publishing.store(self._streams[self._names.dead], subject, event.payload, dead_headers(dead))

    async def dead_event(self, namespace: str, function: str, event_id: str) -> DeadEvent | None:
        if not _can_be(namespace, function, event_id):
            return None
        return await self._last(self._names.dead, self._names.dead_event(namespace, function, event_id), _dead)

    async def dead_events(
        self, namespace: str, function: str, *, limit: int, until: float | None = None
    ) -> list[DeadEvent]:
        if not _can_be(namespace, function, "any"):
            return []
        subject = self._names.dead_event(namespace, function, None)
        asked = limit
        while True:
            found = await self._newest(self._names.dead, subject, asked, _dead)
            wanted = [dead for dead in found if until is None or dead.died_at <= until]
            if len(wanted) >= limit or len(found) < asked:
                return sorted(wanted, key=lambda dead: dead.died_at, reverse=True)[:limit]
            asked *= 4  # the newest are too new

    async def delete_dead_event(self, namespace: str, function: str, event_id: str) -> bool:
        if not _can_be(namespace, function, event_id):
            return False
        deadline, stream = self._connection.deadline(), self._names.dead
        subject = self._names.dead_event(namespace, function, event_id)
        message = await last_of(self._manager, stream, subject, deadline)
        return message is not None and await delete(self._manager, stream, message.sequence, deadline)

    # -- both

    async def _last(self, stream: str, subject: str, decode: Callable[[Stored], T]) -> T | None:
        try:
            message = await last_of(self._manager, stream, subject, self._connection.deadline())
            return decode(message) if message is not None else None
        except ValueError as error:
            logger.warning("%s", error)
            return None

    async def _newest(self, stream: str, subject: str, limit: int, decode: Callable[[Stored], T]) -> list[T]:
        found: list[T] = []
        for message in await newest(self._connection, self._manager, stream, subject, limit):
            try:
                found.append(decode(message))
            except ValueError as error:
                logger.warning("%s", error)
        return found


def _can_be(namespace: str, function: str, event_id: str) -> bool:
    return is_name(namespace) and is_name(function) and is_id(event_id)


def _newer(final: Record | None, other: Record | None) -> Record | None:
    """The final one, unless the other is of a later submission with the same key."""
    if final is None or other is None:
        return final or other
    return other if other.received_at > final.received_at else final


def _record(message: Stored) -> Record:
    return Record.decode(message.payload)


def _dead(message: Stored) -> DeadEvent:
    _, _, namespace, function, event_id = message.subject.split(".")
    return decode_dead(namespace, function, event_id, message.headers, message.payload)
