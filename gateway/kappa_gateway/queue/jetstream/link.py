"""One live connection to NATS: questions and their answers, by token through one inbox. When it breaks, all fails at once."""

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error

from kappa_gateway.queue.jetstream.client import NatsClient, address, connect
from kappa_gateway.queue.protocol import QueueMisconfigured, QueueUnavailable
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

REFUSALS: Final = 5
"""Tries until a server that only closes the connection is believed to give no reason."""
HEARTBEAT: Final = 2.0
"""Seconds between two looks whether the server still answers."""
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
ACK_PREFIX: Final = "$JS.ACK."
NAK: Final = b"-NAK"
_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')


class LinkBroken(Exception):
    """The connection broke before the answer came: what was asked may have happened."""


class NoAnswer(Exception):
    """The answer did not come in time: what was asked may have happened."""


class NoResponders(Exception):
    """Nobody listens to the subject: no such stream or consumer, or it has no leader now."""


class Denied(QueueUnavailable):
    """The user lacks a right."""


def unavailable(settings: Settings, what: str) -> QueueUnavailable:
    return QueueUnavailable(
        f"the queue of asynchronous invocations at {address(settings)} cannot be used now ({what}): try again; "
        "if it lasts, see whether a NATS server with JetStream runs where KAPPA_GATEWAY_QUEUE_URL says"
    )


class Link:
    """Make one with `open_link`."""

    def __init__(self, settings: Settings) -> None:
        self.client: NatsClient
        self.id: Final = secrets.token_hex(16)
        self.remembers_since = 0
        """See `memory`."""
        self.opened_at = asyncio.get_running_loop().time()
        self.broken: Final = asyncio.Event()
        self.trouble = "the server closed the connection"
        self._settings: Final = settings
        self._inbox = ""
        self._tokens: Final = itertools.count()
        self._answers: Final[dict[str, tuple[asyncio.Future[Msg], str]]] = {}
        self._listeners: Final[set[Listener]] = set()
        self._idle: Final[list[Listener]] = []

    @property
    def max_payload(self) -> int:
        """The server's, in bytes, headers included."""
        return self.client.max_payload

    @property
    def server_id(self) -> str:
        """Another one after each start of the server."""
        return str(self.client.server_info["server_id"])

    @property
    def clustered(self) -> bool:
        return bool(self.client.server_info.get("cluster"))

    async def ask(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None, *, deadline: float
    ) -> Msg:
        """The answer. `deadline` is loop time. Raises `LinkBroken`, `NoAnswer`, `NoResponders`, `QueueUnavailable`."""
        loop = asyncio.get_running_loop()
        token = f"r{next(self._tokens)}"
        answer: asyncio.Future[Msg] = loop.create_future()
        # Not `asyncio.timeout`: nats-py may swallow the cancellation that it works with.
        timer = loop.call_at(deadline, _fail, answer, NoAnswer(f"no answer to {subject}"))
        self._answers[token] = (answer, subject)
        try:
            await self.send(subject, payload, self._inbox + token, headers)
            message = await answer
        finally:
            timer.cancel()
            del self._answers[token]
        if message.headers is not None and not message.data and message.headers.get("Status") == "503":
            raise NoResponders(subject)
        return message

    async def send(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand it over, and hear no more of it. Raises `LinkBroken`, `QueueUnavailable`."""
        if self.client.pending_data_size > MAX_UNSENT_BYTES:
            raise unavailable(self._settings, "it takes data slower than this gateway sends it")
        try:
            # Never waits: without a pending size, nats-py only adds to what its flusher writes.
            await self.client.publish(subject, payload, reply, headers)
        except (Error, OSError) as error:
            raise LinkBroken(str(error)) from error

    async def flush(self, deadline: float) -> None:
        """The server has seen all that was sent before. Raises `LinkBroken`, `NoAnswer`."""
        if not await self._pong(deadline - asyncio.get_running_loop().time()):
            raise NoAnswer(self.trouble) if not self.broken.is_set() else LinkBroken(self.trouble)

    async def listen(self, deliver: Callable[[Msg | None], None]) -> "Listener":
        """Messages to the listener's subject go to `deliver`; None says that the link broke. End it with `forget`.

        Stored messages keep their own subject when they are delivered, so each pull needs a subscription: they are used
        again and again. Raises `LinkBroken`.
        """
        if self._idle:
            listener = self._idle.pop()
        else:
            listener = Listener(self, self.client.new_inbox())
            try:
                await self.client.subscribe(
                    listener.subject, cb=listener.receive, pending_msgs_limit=0, pending_bytes_limit=0
                )
            except (Error, OSError) as error:
                raise LinkBroken(str(error)) from error
        listener.deliver = deliver
        self._listeners.add(listener)
        return listener

    async def subscribe(self, subject: str, deliver: Callable[[Msg], None]) -> None:
        """For as long as the link lives. Raises `LinkBroken`."""

        async def receive(message: Msg) -> None:
            deliver(message)

        try:
            await self.client.subscribe(subject, cb=receive)
        except (Error, OSError) as error:
            raise LinkBroken(str(error)) from error

    def forget(self, listener: "Listener", *, for_seconds: float) -> None:
        """It may still get messages so long: they are handed back, and only then it is used again."""
        listener.deliver = None
        self._listeners.discard(listener)
        if for_seconds > 0:
            asyncio.get_running_loop().call_later(for_seconds, self._idle.append, listener)
        else:
            self._idle.append(listener)

    async def watch(self) -> None:
        """Returns when the link is of no more use; `trouble` says why."""
        while self.client.reading and not self.broken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self.broken.wait()
                return
            if not await self._pong(self._settings.queue_timeout):
                return

    async def end(self) -> None:
        """Fail what is under way, and close."""
        self.broken.set()
        for answer, _ in list(self._answers.values()):
            _fail(answer, LinkBroken(self.trouble))
        for listener in list(self._listeners):
            if listener.deliver is not None:
                listener.deliver(None)
        await self.client.discard()

    async def _pong(self, timeout: float) -> bool:
        """Whether the server answers a ping. With a deadline of our own: nats-py's outlasts a connection that ends meanwhile."""
        end, pong = asyncio.create_task(self.broken.wait()), asyncio.create_task(self.client.rtt(3600))
        try:
            await asyncio.wait([end, pong], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return False
            if not pong.done():
                self.trouble = f"the server did not answer within {timeout:.3g} s"
                return False
            pong.result()
            return True
        except (Error, OSError) as error:
            self.trouble = str(error)
            return False
        finally:
            end.cancel()
            pong.cancel()
            await asyncio.wait([end, pong], timeout=1.0)

    async def start(self, last_error: list[Exception]) -> None:
        async def on_error(error: Exception) -> None:
            last_error[:] = [error]
            self._on_error(error)

        async def on_closed() -> None:
            self.broken.set()

        self.client = await connect(self._settings, on_error=on_error, on_closed=on_closed)
        self._inbox = self.client.new_inbox() + "."
        # No limits: what comes here was asked for, and nats-py would drop what is beyond them.
        await self.client.subscribe(self._inbox + "*", cb=self._receive, pending_msgs_limit=0, pending_bytes_limit=0)

    async def _receive(self, message: Msg) -> None:
        token = message.subject[len(self._inbox) :]
        waiting = self._answers.get(token)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(message)

    def _on_error(self, error: Exception) -> None:
        denied = _DENIED.search(str(error).lower())
        if denied is None:
            logger.debug("from the queue at %s: %s", address(self._settings), error)
            self.trouble = str(error) or self.trouble
            return
        # nats-py hands on the server's words in lower case.
        verb, subject = denied.groups()
        logger.error("the queue at %s refuses its user: %s", address(self._settings), error)
        told = Denied(
            f"the queue at {address(self._settings)} refuses its user the right to "
            f"{'publish to' if verb == 'publish' else 'subscribe to'} {subject}: it needs $JS.API.>, $JS.ACK.>, "
            f"{self._settings.queue_prefix}.> and the subjects of destinations to publish, _INBOX.> to subscribe"
        )
        for answer, asked in list(self._answers.values()):
            if asked.lower() == subject or (verb == "subscription" and self._inbox.lower() in subject):
                _fail(answer, told)


class Listener:
    """A subscription for one pull after the other."""

    def __init__(self, link: Link, subject: str) -> None:
        self.subject: Final = subject
        self.deliver: Callable[[Msg | None], None] | None = None
        self._link: Final = link

    async def receive(self, message: Msg) -> None:
        if self.deliver is not None:
            self.deliver(message)
        elif message.reply.startswith(ACK_PREFIX):
            # An event for a `take` that is over: back with it, for whoever asks next.
            with contextlib.suppress(LinkBroken, QueueUnavailable):
                await self._link.send(message.reply, NAK)


async def open_link(settings: Settings) -> Link:
    """Raises `QueueMisconfigured`, nats-py's and system errors."""
    for _ in range(REFUSALS - 1):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            # A server that refuses closes at once, and its reason can get lost then: it is heard the next time.
            return await _open_link(settings)
    return await _open_link(settings)


async def _open_link(settings: Settings) -> Link:
    link, last_error = Link(settings), list[Exception]()
    try:
        await link.start(last_error)
    except Error as error:
        # "No servers" says less than what the last server did.
        cause = last_error[0] if last_error else error
        if "authorization violation" in str(cause).lower():
            raise QueueMisconfigured(
                f"the NATS server at {address(settings)} does not accept the queue's credentials: check "
                "KAPPA_GATEWAY_QUEUE_USER and _PASSWORD, _TOKEN, or _CREDENTIALS_FILE"
            ) from None
        raise cause from None
    return link


def _fail(answer: "asyncio.Future[Msg]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
