"""Lanes as streams: created when first used, found again by name, read, purged."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from nats.js.errors import NotFoundError

from kappa_core.event import Event, Lane
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import decode_event
from kappa_gateway.queue.jetstream.link import Link
from kappa_gateway.queue.jetstream.management import Manager
from kappa_gateway.queue.jetstream.memory import server_time
from kappa_gateway.queue.jetstream.names import CONSUMER, Names, is_id, is_name
from kappa_gateway.queue.jetstream.stored import Stored, delete, last_of, next_of
from kappa_gateway.queue.jetstream.streams import lane_consumer, lane_stream
from kappa_gateway.queue.protocol import LaneState
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

CONCURRENT_REQUESTS: Final = 32


@dataclass(eq=False, slots=True)
class LaneStream:
    """The state of a lane's stream over one link."""

    name: str
    ready: bool = False
    remembers_since: int = 0
    """Server time in microseconds, see `memory`: of the server, or of the consumer if that is younger."""
    order: int = 0
    """The newest delivery's number in the consumer. A smaller one that comes later says that the consumer was
    recreated."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Lanes:
    def __init__(self, settings: Settings, names: Names, connection: Connection) -> None:
        self._settings: Final = settings
        self._names: Final = names
        self._connection: Final = connection
        self._manager: Final = Manager(connection, settings)
        self._link: Link | None = None
        self._known: dict[Lane, LaneStream] = {}

    async def stream(self, lane: Lane, link: Link, deadline: float) -> LaneStream:
        """The lane's stream and its consumer, created where missing; checked once for each link.

        Raises `InvalidRequest`, `QueueMisconfigured`, `QueueFull`, `QueueUnavailable`, and `StreamGone`.
        """
        if self._link is not link:
            self._link, self._known = link, {}
        stream = self._known.get(lane)
        if stream is None:
            stream = self._known[lane] = LaneStream(self._names.stream(lane))
        if stream.ready:
            return stream
        async with stream.lock:
            if not stream.ready:
                config = lane_stream(self._settings, stream.name, self._names.events(lane))
                await self._manager.ensure_stream(config, deadline=deadline)
                # Before the first event: an earlier consumer may have delivered events that are older than this one.
                consumer = lane_consumer(self._settings)
                info = await self._manager.ensure_consumer(stream.name, consumer, deadline=deadline)
                stream.remembers_since = max(link.remembers_since, server_time(info.created))
                stream.ready = True
        return stream

    def leader_changed(self, stream_name: str, at: int) -> None:
        """The consumer has had another leader since then, which may not know of the last deliveries."""
        for stream in self._known.values():
            if stream.name == stream_name:
                stream.remembers_since = max(stream.remembers_since, at)

    def forget(self, lane: Lane) -> None:
        """Something failed: check the lane again when it is next used."""
        self._known.pop(lane, None)

    # -- reading

    async def states(self) -> list[LaneState]:
        deadline = self._connection.deadline()
        found = [
            (lane, info["state"])
            for info in await self._list(deadline)
            if (lane := self._names.lane(info["config"]["name"])) is not None and info["state"]["messages"]
        ]
        gate = asyncio.Semaphore(CONCURRENT_REQUESTS)

        async def look(lane: Lane, state: dict[str, Any]) -> LaneState:
            async with gate:
                return await self._state(lane, state, deadline)

        return list(await asyncio.gather(*(look(lane, state) for lane, state in found)))

    async def _list(self, deadline: float) -> list[dict[str, Any]]:
        """`Any`: JSON. nats-py's manager cannot filter by subject, and leaves out the first message's time."""
        found: list[dict[str, Any]] = []
        while True:
            body: dict[str, object] = {"subject": self._names.all_subjects, "offset": len(found)}
            page = await self._manager.request("STREAM.LIST", body, deadline=deadline)
            streams = page.get("streams") or []
            found += streams
            if not streams or len(found) >= int(page["total"]):
                return found

    async def _state(self, lane: Lane, state: dict[str, Any], deadline: float) -> LaneState:
        messages, stream = int(state["messages"]), self._names.stream(lane)
        waiting = messages
        with contextlib.suppress(NotFoundError):
            info = await self._manager.call(lambda jsm: jsm.consumer_info(stream, CONSUMER), deadline=deadline)
            waiting = min(info.num_pending or 0, messages)
        return LaneState(lane, waiting, messages - waiting, datetime.fromisoformat(state["first_ts"]).timestamp())

    async def find(self, lane: Lane, event_id: str) -> Event | None:
        if not is_id(event_id) or not _is_lane(lane):
            return None
        message = await self._last(lane, event_id)
        return _decode(lane, message) if message is not None else None

    async def events(self, lane: Lane, *, limit: int, after: str | None = None) -> list[Event]:
        if not _is_lane(lane):
            return []
        stream, subject = self._names.stream(lane), self._names.events(lane)
        found: list[Event] = []
        sequence = 1
        if after is not None and is_id(after):
            last = await self._last(lane, after)
            sequence = last.sequence + 1 if last is not None else 1
        while len(found) < limit:
            # Each one has its own deadline: a page may be long.
            message = await next_of(self._manager, stream, sequence, subject, self._connection.deadline())
            if message is None:
                break
            sequence = message.sequence + 1
            event = _decode(lane, message)
            if event is not None:
                found.append(event)
        return found

    async def delete(self, lane: Lane, event_id: str, sequence: int) -> None:
        """Remove an event past its consumer, if it still is the message with that sequence."""
        message = await self._last(lane, event_id)
        if message is not None and message.sequence == sequence:
            await delete(self._manager, self._names.stream(lane), sequence, self._connection.deadline())

    async def purge(self, lane: Lane) -> int:
        if not _is_lane(lane):
            return 0
        try:
            # nats-py's manager does not return how many.
            what, deadline = f"STREAM.PURGE.{self._names.stream(lane)}", self._connection.deadline()
            return int((await self._manager.request(what, {}, deadline=deadline)).get("purged", 0))
        except NotFoundError:
            return 0

    async def drop(self, lane: Lane) -> None:
        if not _is_lane(lane):
            return
        self._known.pop(lane, None)
        stream = self._names.stream(lane)
        with contextlib.suppress(NotFoundError):
            await self._manager.call(lambda jsm: jsm.delete_stream(stream), deadline=self._connection.deadline())

    async def _last(self, lane: Lane, event_id: str) -> Stored | None:
        stream, subject = self._names.stream(lane), self._names.event(lane, event_id)
        return await last_of(self._manager, stream, subject, self._connection.deadline())


def _decode(lane: Lane, message: Stored) -> Event | None:
    try:
        return decode_event(lane, message.id, message.headers, message.payload)[0]
    except ValueError as error:
        logger.warning("%s", error)
        return None


def _is_lane(lane: Lane) -> bool:
    return is_name(lane.namespace) and is_name(lane.function)
