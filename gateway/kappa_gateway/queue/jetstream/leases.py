"""Receiving events from lanes, and the leases of those that this gateway holds."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from kappa_core.event import Lane
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import decode_event
from kappa_gateway.queue.jetstream.lanes import Lanes, LaneStream
from kappa_gateway.queue.jetstream.link import NAK, Link, LinkBroken, NoAnswer
from kappa_gateway.queue.jetstream.management import PAUSE, StreamGone
from kappa_gateway.queue.jetstream.memory import ROUNDING, server_time
from kappa_gateway.queue.jetstream.pull import Pull, PullFailed
from kappa_gateway.queue.protocol import EventLease, QueueUnavailable
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

LONGEST_PULL: Final = 5.0
"""Seconds: a pull that the server forgot delays events by no more."""
TRY: Final = 2.0
"""Seconds for the answer to an ack: a server that forgot the delivery gives none."""
ACK: Final = b"+ACK"
PROGRESS: Final = b"+WPI"
TERMINATE: Final = b"+TERM"

NEVER: Final = 2**63
"""As `remembers_since`: nothing is certain about this lane."""

Key = tuple[str, int]
"""A stream and the sequence in it."""


@dataclass(eq=False, slots=True)
class Token:
    key: Key
    reply: str
    """Where the delivery is acknowledged: the newest one's, if the event was delivered again while it was held."""
    alive_at: float
    """Loop time of the delivery, or of the last `extend`."""
    link: Link
    """Over which it was delivered: after another connection, the server may have forgotten it."""


class Leases:
    def __init__(self, settings: Settings, connection: Connection, lanes: Lanes) -> None:
        self._settings: Final = settings
        self._connection: Final = connection
        self._lanes: Final = lanes
        self._window: Final = int(settings.queue_deduplication_window * 1e6)
        """Microseconds."""
        self._held: Final[dict[Key, EventLease]] = {}

    async def receive(self, lane: Lane, count: int, wait: float) -> list[EventLease]:
        if count <= 0:
            return []
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        patience = max(until, self._connection.deadline())
        alone = True
        while True:
            link = await self._connection.connected(patience)
            try:
                stream = await self._lanes.stream(lane, link, patience)
                began = loop.time()
                leases = await self._pull(lane, stream, link, count, until - began, alone=alone)
                if leases or loop.time() >= until:
                    return leases
                # It ended early and empty: other pulls wait before this one. Then wait behind them, for one event.
                alone = loop.time() >= began + min(until - began, LONGEST_PULL) - PAUSE
                patience = max(until, self._connection.deadline())
            except LinkBroken:
                self._connection.gone(link)
            except (PullFailed, StreamGone) as error:
                self._lanes.forget(lane)
                if loop.time() + PAUSE > patience:
                    raise self._connection.unavailable(f"it delivers nothing of {lane}: {error}") from None
                await asyncio.sleep(PAUSE)

    async def extend(self, leases: Sequence[EventLease]) -> None:
        now = asyncio.get_running_loop().time()
        link = self._connection.link
        for lease in leases:
            if self._alive(lease, now):  # else another gateway may hold it by now
                lease.token.alive_at = now
            if link is not None:
                try:
                    await link.send(lease.token.reply, PROGRESS)
                except (LinkBroken, QueueUnavailable):
                    link = None  # the next heartbeat may be in time

    def may_attempt(self, lease: EventLease) -> bool:
        token: Token = lease.token
        if self._connection.link is token.link and self._alive(lease, asyncio.get_running_loop().time()):
            return True
        self._drop(lease)
        return False

    async def ack(self, lease: EventLease) -> None:
        await self._settle(lease, ACK)

    async def nack(self, lease: EventLease, delay: float) -> None:
        # A server that restarts keeps the delay, to within a second or so.
        await self._settle(lease, NAK if delay <= 0 else NAK + b" " + json.dumps({"delay": int(delay * 1e9)}).encode())

    async def _settle(self, lease: EventLease, what: bytes) -> None:
        """Confirmed by the server. This gateway holds the lease until then."""
        token: Token = lease.token
        timeout = min(TRY, self._settings.queue_timeout)

        async def request(link: Link) -> bool:
            try:
                await link.request(token.reply, what, timeout)
                return True
            except NoAnswer:
                return False

        try:
            if not await self._connection.run(request, deadline=self._connection.deadline()):
                # A server that crashed does not answer for a delivery that it forgot. If it answers other requests, the
                # event can be received already, so `nack` has nothing left to do.
                event = lease.event
                if what is ACK:
                    await self._lanes.delete(event.lane, event.id, token.key[1])
                else:
                    await self._lanes.find(event.lane, event.id)
        except NoRespondersError:
            # The lane is gone and the event with it; or its consumer is, and the next one delivers all that is there.
            logger.info("event %s: its lane or the lane's consumer was recreated meanwhile", lease.event.id)
        self._drop(lease)

    def _drop(self, lease: EventLease) -> None:
        if self._held.get(lease.token.key) is lease:
            del self._held[lease.token.key]

    def prune(self) -> None:
        """Forget leases that expired."""
        now = asyncio.get_running_loop().time()
        for key, lease in list(self._held.items()):
            if not self._alive(lease, now):
                del self._held[key]

    def _alive(self, lease: EventLease, now: float) -> bool:
        return bool(now < lease.token.alive_at + self._settings.queue_lease)

    # -- pulling

    async def _pull(
        self, lane: Lane, stream: LaneStream, link: Link, count: int, wait: float, *, alone: bool
    ) -> list[EventLease]:
        pull = Pull(link, stream.name)
        before = stream.order
        try:
            if alone:
                await pull.run(count, min(wait, LONGEST_PULL))
            else:
                await pull.run(1, min(wait, LONGEST_PULL), all_at_once=False)
        except (asyncio.CancelledError, Exception):
            await pull.nack_all()
            raise
        leases = [await self._lease(lane, stream, link, before, message) for message in pull.messages]
        return [lease for lease in leases if lease is not None]

    async def _lease(self, lane: Lane, stream: LaneStream, link: Link, before: int, message: Msg) -> EventLease | None:
        delivery = message.metadata
        sequence, number = delivery.sequence.stream, delivery.sequence.consumer
        event_id = message.subject.rpartition(".")[2]
        now = asyncio.get_running_loop().time()
        if number <= before:
            # It was delivered later, and has a smaller number: the consumer was recreated, and has forgotten its
            # deliveries.
            stream.remembers_since = NEVER
            self._lanes.forget(lane)
        stream.order = max(stream.order, number)
        key = (stream.name, sequence)
        held = self._held.get(key)
        if held is not None and held.event.id == event_id and self._alive(held, now):
            # The server forgot, or an `extend` came late. The holder keeps it.
            held.token.reply, held.token.link = message.reply, link
            return None
        try:
            event, again = decode_event(lane, event_id, message.headers, message.data)
        except ValueError as error:
            logger.error("%s: it is deleted", error)
            await link.send(message.reply, TERMINATE)
            return None
        # With a key, the same id may have come and gone before; the server knows that for its window.
        stored_at = server_time(delivery.timestamp) - ROUNDING
        known_for = self._window if event.keyed else 0
        fresh = delivery.num_delivered == 1 and stored_at - known_for > stream.remembers_since and not again
        counted = stored_at > stream.remembers_since
        token = Token(key, message.reply, now, link)
        lease = EventLease(event, delivery.num_delivered, fresh, delivery.num_pending, counted, token)
        self._held[key] = lease
        return lease
