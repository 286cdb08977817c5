"""The queue on NATS JetStream, server 2.9 or newer: `Queue` and `Publisher` of the protocol.

Each lane is a stream of its own with one consumer (`lanes`, `leases`), records and the dead letter are in three shared
streams (`store`). `connection` keeps one connection to the server, `streams` says how streams are set up.
"""

import asyncio
import contextlib
import json
import logging
from datetime import datetime
from typing import Final

from nats.aio.msg import Msg
from nats.js.errors import APIError, ServiceUnavailableError

from kappa_core.errors import InvalidRequest
from kappa_core.event import Event
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import event_headers
from kappa_gateway.queue.jetstream.lanes import Lanes
from kappa_gateway.queue.jetstream.leases import Leases
from kappa_gateway.queue.jetstream.link import Denied, Link
from kappa_gateway.queue.jetstream.management import Manager, explain, is_second_of_subject, is_temporary
from kappa_gateway.queue.jetstream.memory import remembers_since, server_time
from kappa_gateway.queue.jetstream.names import Names
from kappa_gateway.queue.jetstream.publishing import Publishing, TryAgain
from kappa_gateway.queue.jetstream.store import Store
from kappa_gateway.queue.jetstream.streams import shared_streams
from kappa_gateway.queue.protocol import LaneState, QueueMisconfigured
from kappa_gateway.settings import Settings

CONSUMER_LEADERS: Final = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.>"
LEADER_MARGIN: Final = 1_000_000
"""Microseconds: servers of a cluster have clocks of their own."""
logger = logging.getLogger(__name__)

HEADER_RESERVE: Final = 32 * 1024
"""Of the server's `max_payload`, for an event's attributes and its dead letter's error."""
SMALLEST_EVENT: Final = 64 * 1024
"""A server that takes less than this is not set up for events."""


class JetStreamQueue:
    def __init__(self, settings: Settings) -> None:
        self.lease_seconds: float = settings.queue_lease
        self._settings: Final = settings
        self._names: Final = Names(settings.queue_prefix)
        self._connection: Final = Connection(settings, self._prepare)
        self._publishing: Final = Publishing(settings, self._connection)
        self._lanes: Final = Lanes(settings, self._names, self._connection)
        leases = self._leases = Leases(settings, self._connection, self._lanes)
        store = Store(settings, self._names, self._connection, self._publishing)
        self._max_event_bytes: int | None = None
        # Each of these operations belongs to one part alone.
        self.receive, self.extend, self.may_attempt = leases.receive, leases.extend, leases.may_attempt
        self.ack, self.nack = leases.ack, leases.nack
        self.find, self.events = self._lanes.find, self._lanes.events
        self.purge, self.drop_lane = self._lanes.purge, self._lanes.drop
        self.save_record, self.record, self.records = store.save_record, store.record, store.records
        self.dead_letter, self.delete_dead_event = store.dead_letter, store.delete_dead_event
        self.dead_event, self.dead_events = store.dead_event, store.dead_events

    @property
    def available(self) -> bool:
        return self._connection.link is not None

    @property
    def max_event_bytes(self) -> int | None:
        return self._max_event_bytes

    async def open(self) -> None:
        await self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    # -- events

    async def enqueue(self, event: Event) -> bool:
        deadline = self._connection.deadline()
        subject = self._names.event(event.lane, event.id)
        again = False
        while True:
            link = await self._connection.connected(deadline)
            if event.keyed and await self._ended(event, link):
                return False
            stream = await self._lanes.stream(event.lane, link, deadline)
            headers = event_headers(event, again=again)
            try:
                ack = await self._publishing.once(link, stream.name, subject, event.payload, headers, deadline)
                # A duplicate of an earlier try of this call is this event.
                return again or not ack.duplicate
            except TryAgain as error:
                again = again or error.may_have_happened
                self._lanes.forget(event.lane)
                await self._publishing.pause(error, deadline)
            except APIError as error:
                if is_second_of_subject(error):
                    return again
                raise self._publishing.refused(stream.name, error) from error

    async def _ended(self, event: Event, link: Link) -> bool:
        """Whether a keyed event came within the window and ended, which a server that was restarted since has
        forgotten."""
        window = self._settings.queue_deduplication_window
        if asyncio.get_running_loop().time() - link.opened_at > window:
            return False
        record = await self.record(event.lane.namespace, event.lane.function, event.id)
        return record is not None and record.status.final and record.received_at > event.received_at - window

    async def lanes(self) -> list[LaneState]:
        self._leases.prune()
        return await self._lanes.states()

    # -- for destinations

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        if subject.startswith((f"{self._settings.queue_prefix}.", "$", "_")):
            raise InvalidRequest(f"subject {subject} is the queue's or the server's own: a destination needs another")
        await self._publishing.publish(subject, payload, headers)

    # -- a new connection

    async def _prepare(self, link: Link) -> None:
        deadline, where = self._connection.deadline(), self._connection.address
        manager = Manager(link, self._settings)
        try:
            await link.jsm(timeout=self._settings.queue_timeout).account_info()
            self._check_size(link)
            for config in shared_streams(self._settings, self._names):
                await manager.ensure_stream(config, deadline=deadline)
            timeout = self._settings.queue_timeout
            link.remembers_since = await remembers_since(link, manager, self._names, timeout, deadline)
            if link.clustered:
                await link.subscribe(CONSUMER_LEADERS, cb=self._leader_changed)
        except Denied as error:
            raise QueueMisconfigured(error.message) from error
        except APIError as error:
            if isinstance(error, ServiceUnavailableError) and error.err_code is None:  # nobody listens
                raise QueueMisconfigured(
                    f"the NATS server at {where} runs without JetStream: start it with -js, or a jetstream block in "
                    "its configuration"
                ) from None
            if is_temporary(error):
                raise self._connection.unavailable(explain(error)) from error
            raise QueueMisconfigured(
                f"the account of the queue at {where} has no JetStream: {explain(error)}"
            ) from error

    async def _leader_changed(self, message: Msg) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            news = json.loads(message.data)
            at = server_time(datetime.fromisoformat(news["timestamp"]))
            self._lanes.leader_changed(news["stream"], at + LEADER_MARGIN)

    def _check_size(self, link: Link) -> None:
        wanted, room = self._settings.event_max_bytes, link.max_payload - HEADER_RESERVE
        if room < min(wanted, SMALLEST_EVENT):
            raise QueueMisconfigured(
                f"the NATS server at {self._connection.address} takes messages of at most {link.max_payload} bytes, "
                f"which is too small for events of up to {wanted}: set max_payload to at least "
                f"{wanted + HEADER_RESERVE} in its configuration"
            )
        if room < wanted and self._max_event_bytes != room:
            logger.warning(
                "events may have %d bytes, not the %d of KAPPA_GATEWAY_EVENT_MAX_BYTES: the NATS server at %s takes "
                "messages of at most %d; set max_payload to at least %d in its configuration",
                room,
                wanted,
                self._connection.address,
                link.max_payload,
                wanted + HEADER_RESERVE,
            )
        self._max_event_bytes = room
