"""Taking events from lanes, and what becomes of those in hand."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg

from kappa_core.event import Lane
from kappa_gateway.queue.jetstream.api import PAUSE, StreamGone
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.delivery import Delivery, Pull, PullFailed
from kappa_gateway.queue.jetstream.encoding import decode_event
from kappa_gateway.queue.jetstream.lanes import Lanes, LaneStream
from kappa_gateway.queue.jetstream.link import NAK, Link, LinkBroken, NoResponders
from kappa_gateway.queue.jetstream.streams import nanoseconds
from kappa_gateway.queue.protocol import Lease, QueueUnavailable
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

LONGEST_PULL: Final = 5.0
"""Seconds: so long a pull that the server forgot delays events at most."""
ACK: Final = b"+ACK"
PROGRESS: Final = b"+WPI"
TERMINATE: Final = b"+TERM"

FORGETFUL: Final = 2**63

Key = tuple[str, int]
"""A stream and the sequence in it."""


@dataclass(eq=False, slots=True)
class Token:
    key: Key
    reply: str
    """Where the hand-out is acknowledged: the newest one's, when it was handed out again while it was in hand."""
    alive_at: float
    """Loop time of the hand-out, or of the last `extend`."""
    link: Link
    """Over which it was handed out: a server that is reached anew may have forgotten it."""


class Leases:
    def __init__(self, settings: Settings, connection: Connection, lanes: Lanes) -> None:
        self._settings: Final = settings
        self._connection: Final = connection
        self._lanes: Final = lanes
        self._keyed_after: Final = nanoseconds(settings.queue_deduplication_window)
        self._held: Final[dict[Key, Lease]] = {}

    async def take(self, lane: Lane, count: int, wait: float) -> list[Lease]:
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
                # Ended early and with nothing: others' pulls wait before this one. Then this stands in line for one event.
                alone = loop.time() >= began + min(until - began, LONGEST_PULL) - PAUSE
                patience = max(until, self._connection.deadline())
            except LinkBroken:
                self._connection.gone(link)
            except (PullFailed, StreamGone) as error:
                self._lanes.forget(lane)
                if loop.time() + PAUSE > patience:
                    raise self._connection.unavailable(f"it hands out nothing of {lane}: {error}") from None
                await asyncio.sleep(PAUSE)

    async def extend(self, leases: Sequence[Lease]) -> None:
        now = asyncio.get_running_loop().time()
        link = self._connection.link
        for lease in leases:
            if self._alive(lease, now):  # else it may be another's by now
                lease.token.alive_at = now
            if link is not None:
                try:
                    await link.send(lease.token.reply, PROGRESS)
                except (LinkBroken, QueueUnavailable):
                    link = None  # the next heartbeat may be in time

    def may_begin(self, lease: Lease) -> bool:
        token: Token = lease.token
        if self._connection.link is token.link and self._alive(lease, asyncio.get_running_loop().time()):
            return True
        self._let_go(lease)
        return False

    async def done(self, lease: Lease) -> None:
        await self._tell(lease, ACK)

    async def retry(self, lease: Lease, delay: float) -> None:
        # A server that restarts keeps the delay, to within a second or so.
        await self._tell(lease, NAK if delay <= 0 else NAK + b" " + json.dumps({"delay": nanoseconds(delay)}).encode())

    async def _tell(self, lease: Lease, what: bytes) -> None:
        """Confirmed by the server. The lease is this gateway's until then."""
        token: Token = lease.token
        try:
            await self._connection.ask(token.reply, what, deadline=self._connection.deadline())
        except NoResponders:
            # The lane is gone and the event with it, or its consumer, and the next one hands out all that is there.
            logger.info("event %s: its lane, or what takes from it, was made anew meanwhile", lease.event.id)
        self._let_go(lease)

    def _let_go(self, lease: Lease) -> None:
        if self._held.get(lease.token.key) is lease:
            del self._held[lease.token.key]

    def prune(self) -> None:
        """Forget leases that ran out."""
        now = asyncio.get_running_loop().time()
        for key, lease in list(self._held.items()):
            if not self._alive(lease, now):
                del self._held[key]

    def _alive(self, lease: Lease, now: float) -> bool:
        return bool(now < lease.token.alive_at + self._settings.queue_lease)

    # -- pulling

    async def _pull(
        self, lane: Lane, stream: LaneStream, link: Link, count: int, wait: float, *, alone: bool
    ) -> list[Lease]:
        pull = Pull(link, stream.name)
        before = stream.order
        try:
            if alone:
                await pull.run(count, min(wait, LONGEST_PULL))
            else:
                await pull.run(1, min(wait, LONGEST_PULL), all_at_once=False)
        except (asyncio.CancelledError, Exception):
            await pull.hand_back()
            raise
        leases = [await self._lease(lane, stream, link, before, message) for message in pull.messages]
        return [lease for lease in leases if lease is not None]

    async def _lease(self, lane: Lane, stream: LaneStream, link: Link, before: int, message: Msg) -> Lease | None:
        delivery = Delivery.parse(message.reply)
        event_id = message.subject.rpartition(".")[2]
        now = asyncio.get_running_loop().time()
        if delivery.order <= before:
            # Handed out later than what came before, and counted as earlier: somebody made the consumer anew, and it has
            # forgotten what it handed out.
            stream.remembers_since = FORGETFUL
            self._lanes.forget(lane)
        stream.order = max(stream.order, delivery.order)
        key = (stream.name, delivery.sequence)
        held = self._held.get(key)
        if held is not None and held.event.id == event_id and self._alive(held, now):
            # The server forgot, or a heartbeat came late. It stays in the hand that it is in.
            held.token.reply, held.token.link = message.reply, link
            return None
        try:
            event, again = decode_event(lane, event_id, message.headers, message.data)
        except ValueError as error:
            logger.error("%s: it is thrown away", error)
            await self._connection.send(message.reply, TERMINATE, deadline=self._connection.deadline())
            return None
        # With a key, the same id may have come and gone before; the server knows so for its window.
        known_for = self._keyed_after if event.keyed else 0
        fresh = delivery.hand_outs == 1 and delivery.stored_at - known_for > stream.remembers_since and not again
        counted = delivery.stored_at > stream.remembers_since
        lease = Lease(event, delivery.hand_outs, fresh, delivery.pending, counted, Token(key, message.reply, now, link))
        self._held[key] = lease
        return lease
