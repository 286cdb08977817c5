"""Pulls, which ask a consumer for messages.

nats-py's `fetch` cannot tell why a pull ended, and loses messages that arrive while it is cancelled. So this is the
protocol itself: a request to `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>` with an inbox, where the messages arrive,
and a status when there are no more: 404 no messages, 408 time is up, 409 the consumer is gone or full, 503 nobody
listens.

https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

import asyncio
import json
from typing import Final

from nats.aio.msg import Msg

from kappa_gateway.queue.jetstream.link import ACK_PREFIX, NAK, Link, LinkBroken
from kappa_gateway.queue.jetstream.names import CONSUMER
from kappa_gateway.queue.protocol import QueueUnavailable

SHORTEST: Final = 0.02
"""Seconds that a pull waits at least: where there are messages, that costs nothing."""
GRACE: Final = 2.0
"""Seconds on top of a pull's own time in which the server must have ended it."""
_OVER: Final = frozenset({"404", "408", "enough"})


class PullFailed(Exception):
    """The consumer is gone, or refuses: create it again, or wait."""


class Pull:
    """One pull over one link. `messages` holds what came, also when `run` was cancelled: then return it with
    `nack_all`."""

    def __init__(self, link: Link, stream: str, consumer: str = CONSUMER) -> None:
        self._link: Final = link
        self._subject: Final = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self.messages: Final[list[Msg]] = []
        self._wanted = 0
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, count: int, wait: float, *, all_at_once: bool = True) -> None:
        """Up to `count` messages: those that are there, or else the first that come within `wait` seconds. With
        `all_at_once` the server ends the pull as soon as there are no more, without it when there are `count`.

        `no_wait` never goes without `expires`: such a pull can wait in the server for ever, see
        https://github.com/nats-io/nats-server/issues/7457.
        Raises `PullFailed` or `LinkBroken` where none came because of that, and `QueueUnavailable`.
        """
        self._wanted = count
        wait = max(wait, SHORTEST)
        body: dict[str, object] = {"batch": count, "expires": int(wait * 1e9)}
        if all_at_once:
            body["no_wait"] = True
        loop = asyncio.get_running_loop()
        # The server ends the pull; if it forgot it, this timer does.
        timer = loop.call_later(wait + GRACE, self._end, "no answer")
        listener = await self._link.listen(self._deliver)
        ended = "no answer"
        try:
            await self._link.send(self._subject, json.dumps(body).encode(), listener.subject)
            ended = await self._ended
        finally:
            timer.cancel()
            self._link.release(listener, for_seconds=wait + GRACE if ended == "no answer" else 0.0)
        if self.messages or ended in _OVER:
            return
        if ended == "broken":
            raise LinkBroken("while it waited for events")
        raise PullFailed(ended)

    async def nack_all(self) -> None:
        """Return the messages to the queue at once."""
        for message in self.messages:
            try:
                await self._link.send(message.reply, NAK)
            except (LinkBroken, QueueUnavailable):
                return  # then their leases expire

    def _deliver(self, message: Msg | None) -> None:
        if message is None:
            self._end("broken")
        elif message.reply.startswith(ACK_PREFIX):
            self.messages.append(message)
            if len(self.messages) >= self._wanted:
                self._end("enough")
        else:
            self._end((message.headers or {}).get("Status", "no status"))

    def _end(self, how: str) -> None:
        if not self._ended.done():
            self._ended.set_result(how)
