"""Lanes as streams: made when first used, found again by name, looked into, emptied."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from kappa_core.event import Event, Lane
from kappa_gateway.queue.jetstream.api import NOT_FOUND, Api, ApiError
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import decode_event
from kappa_gateway.queue.jetstream.link import Link
from kappa_gateway.queue.jetstream.memory import server_time
from kappa_gateway.queue.jetstream.names import CONSUMER, Names, is_id, is_name
from kappa_gateway.queue.jetstream.stored import Stored, get_message
from kappa_gateway.queue.jetstream.streams import Config, lane_consumer, lane_stream
from kappa_gateway.queue.protocol import LaneState
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

LOOKS_AT_A_TIME: Final = 32


@dataclass(eq=False, slots=True)
class LaneStream:
    """What is known of a lane's stream over one link."""

    name: str
    made: bool = False
    remembers_since: int = 0
    """Server time, nanoseconds, see `memory`: of the server or of the consumer, if that is younger."""
    order: int = 0
    """The newest hand-out that was seen; a smaller one later says that the consumer was made anew."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Lanes:
    def __init__(self, settings: Settings, names: Names, connection: Connection) -> None:
        self._settings: Final = settings
        self._names: Final = names
        self._connection: Final = connection
        self._api: Final = Api(connection, settings)
        self._link: Link | None = None
        self._known: dict[Lane, LaneStream] = {}

    async def stream(self, lane: Lane, link: Link, deadline: float) -> LaneStream:
        """The lane's stream, and the consumer that takes from it; made where missing, looked at once for each link.

        Raises `InvalidRequest`, `QueueMisconfigured`, `QueueFull`, `QueueUnavailable`, and `StreamGone`.
        """
        if self._link is not link:
            self._link, self._known = link, {}
        stream = self._known.get(lane)
        if stream is None:
            stream = self._known[lane] = LaneStream(self._names.stream(lane))
        if stream.made:
            return stream
        async with stream.lock:
            if not stream.made:
                config = lane_stream(self._settings, stream.name, self._names.events(lane))
                await self._api.ensure_stream(config, deadline=deadline)
                # Before the first event: one that is older than its consumer may have been another consumer's.
                info = await self._api.ensure_consumer(stream.name, lane_consumer(self._settings), deadline=deadline)
                stream.remembers_since = max(link.remembers_since, server_time(info["created"]))
                stream.made = True
        return stream

    def led_anew(self, stream_name: str, at: int) -> None:
        """The consumer has another leader since then, which may not know of the last hand-outs."""
        for stream in self._known.values():
            if stream.name == stream_name:
                stream.remembers_since = max(stream.remembers_since, at)

    def forget(self, lane: Lane) -> None:
        """Something of it is not as it was: look again when it is next used."""
        self._known.pop(lane, None)

    # -- what is in them

    async def states(self) -> list[LaneState]:
        deadline = self._connection.deadline()
        found = [
            (lane, info["state"])
            for info in await self._list(deadline)
            if (lane := self._names.lane(info["config"]["name"])) is not None and info["state"]["messages"]
        ]
        gate = asyncio.Semaphore(LOOKS_AT_A_TIME)

        async def look(lane: Lane, state: Config) -> LaneState:
            async with gate:
                return await self._state(lane, state, deadline)

        return list(await asyncio.gather(*(look(lane, state) for lane, state in found)))

    async def _list(self, deadline: float) -> list[Config]:
        found: list[Config] = []
        while True:
            body = {"subject": self._names.all_subjects, "offset": len(found)}
            page = await self._api.call("STREAM.LIST", body, deadline=deadline)
            streams = page.get("streams") or []
            found += streams
            if not streams or len(found) >= int(page["total"]):
                return found

    async def _state(self, lane: Lane, state: Config, deadline: float) -> LaneState:
        messages = int(state["messages"])
        waiting = messages
        try:
            info = await self._api.call(f"CONSUMER.INFO.{self._names.stream(lane)}.{CONSUMER}", deadline=deadline)
            waiting = min(int(info["num_pending"]), messages)
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
        return LaneState(lane, waiting, messages - waiting, datetime.fromisoformat(state["first_ts"]).timestamp())

    async def find(self, lane: Lane, event_id: str) -> Event | None:
        if not is_id(event_id) or not _is_lane(lane):
            return None
        message = await self._get(
            lane, {"last_by_subj": self._names.event(lane, event_id)}, self._connection.deadline()
        )
        return _decode(lane, message) if message is not None else None

    async def events(self, lane: Lane, *, limit: int, after: str | None) -> list[Event]:
        if not _is_lane(lane):
            return []
        deadline = self._connection.deadline()
        found: list[Event] = []
        sequence = 1
        if after is not None and is_id(after):
            last = await self._get(lane, {"last_by_subj": self._names.event(lane, after)}, deadline)
            sequence = last.sequence + 1 if last is not None else 1
        while len(found) < limit:
            # Each one has its own time: a page may be long.
            deadline = self._connection.deadline()
            message = await self._get(lane, {"seq": sequence, "next_by_subj": self._names.events(lane)}, deadline)
            if message is None:
                break
            sequence = message.sequence + 1
            event = _decode(lane, message)
            if event is not None:
                found.append(event)
        return found

    async def purge(self, lane: Lane) -> int:
        if not _is_lane(lane):
            return 0
        try:
            answer = await self._api.call(
                f"STREAM.PURGE.{self._names.stream(lane)}", {}, deadline=self._connection.deadline()
            )
            return int(answer.get("purged", 0))
        except ApiError as error:
            if error.code == NOT_FOUND:
                return 0
            raise

    async def drop(self, lane: Lane) -> None:
        if not _is_lane(lane):
            return
        self._known.pop(lane, None)
        try:
            await self._api.call(f"STREAM.DELETE.{self._names.stream(lane)}", deadline=self._connection.deadline())
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise

    async def _get(self, lane: Lane, what: Config, deadline: float) -> Stored | None:
        return await get_message(self._api, self._names.stream(lane), what, deadline)


def _decode(lane: Lane, message: Stored) -> Event | None:
    try:
        return decode_event(lane, message.id, message.headers, message.payload)[0]
    except ValueError as error:
        logger.warning("%s", error)
        return None


def _is_lane(lane: Lane) -> bool:
    return is_name(lane.namespace) and is_name(lane.function)
