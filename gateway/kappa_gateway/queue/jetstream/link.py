"""One live connection to NATS: nats-py's client, with requests that fail at once when the connection breaks.

nats-py's own `request` waits for its whole timeout when the connection breaks or the server denies the subject, and its
`close` waits for a peer that does not read. Its JetStream manager goes through `request`, so overriding that is enough.
"""

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from kappa_gateway.queue.jetstream.options import address, client_options, wants_tls
from kappa_gateway.queue.protocol import QueueMisconfigured, QueueUnavailable
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
REFUSALS: Final = 5
"""Attempts after which a server that only closes the connection is taken to give no reason."""
HEARTBEAT: Final = 2.0
"""Seconds between two checks that the server still answers."""
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
ACK_PREFIX: Final = "$JS.ACK."
NAK: Final = b"-NAK"
_NO_RESPONDERS: Final = "503"
_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')


class LinkBroken(Error):
    """The connection broke before the answer came: what was asked may have happened."""


class NoAnswer(NatsTimeoutError):
    """The answer did not come in time: what was asked may have happened."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.subject = subject

    def __str__(self) -> str:
        return f"no answer to {self.subject} in time"


class TlsRefused(Error):
    """Raised before credentials would go over a plain connection."""


class Denied(QueueUnavailable):
    """The user lacks a right."""


def unavailable(settings: Settings, what: str) -> QueueUnavailable:
    return QueueUnavailable(
        f"the queue of asynchronous invocations at {address(settings)} cannot be used now ({what}): try again; "
        "if it lasts, check that a NATS server with JetStream runs where KAPPA_GATEWAY_QUEUE_URL says"
    )


class Link(Client):
    """Create one with `open_link`. It is never reconnected: `Connection` opens the next one."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.id: Final = secrets.token_hex(16)
        self.remembers_since = 0
        """See `memory`."""
        self.opened_at = asyncio.get_running_loop().time()
        self.broken: Final = asyncio.Event()
        self.trouble = "the server closed the connection"
        self._settings: Final = settings
        self.js: Final = self.jetstream()
        self._inbox = ""
        self._request_number = 0
        self._requests: Final[dict[str, tuple[asyncio.Future[Msg], str]]] = {}
        self._listeners: Final[set[Listener]] = set()
        self._idle: Final[list[Listener]] = []

    @property
    def server_id(self) -> str:
        """Another one after each start of the server."""
        return str(self._server_info["server_id"])

    @property
    def clustered(self) -> bool:
        return bool(self._server_info.get("cluster"))

    async def run(self, operation: Callable[["Link"], Awaitable[T]], *, deadline: float) -> T:
        """`operation` over this link; `Connection.run` repeats it over the next one."""
        return await operation(self)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """The answer. Raises `LinkBroken`, `NoAnswer`, nats-py's `NoRespondersError`, and `QueueUnavailable`."""
        loop = asyncio.get_running_loop()
        token = f"r{self._request_number}"
        self._request_number += 1
        answer: asyncio.Future[Msg] = loop.create_future()
        # Not `asyncio.timeout`: nats-py may swallow the cancellation that it works with.
        timer = loop.call_later(timeout, _fail, answer, NoAnswer(subject))
        self._requests[token] = (answer, subject)
        try:
            await self.send(subject, payload, self._inbox + token, headers)
            message = await answer
        finally:
            timer.cancel()
            del self._requests[token]
        if message.headers is not None and not message.data and message.headers.get("Status") == _NO_RESPONDERS:
            raise NoRespondersError
        return message

    async def send(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, Any] | None = None
    ) -> None:
        """Publish without waiting for anything. Raises `LinkBroken`, `QueueUnavailable`."""
        if self.broken.is_set():
            raise LinkBroken(self.trouble)
        if self.pending_data_size > MAX_UNSENT_BYTES:
            raise unavailable(self._settings, "it takes data slower than this gateway sends it")
        try:
            # Never waits: without a pending size, nats-py only adds to what its flusher writes.
            await self.publish(subject, payload, reply, headers)
        except (Error, OSError) as error:
            raise LinkBroken(str(error)) from error

    async def listen(self, deliver: Callable[[Msg | None], None]) -> "Listener":
        """Messages to the listener's subject go to `deliver`; None says that the link broke. End it with `release`.

        Stored messages keep their own subject when they are delivered, so each pull needs a subscription. Subscriptions
        are reused. Raises `LinkBroken`.
        """
        if self._idle:
            listener = self._idle.pop()
        else:
            listener = Listener(self, self.new_inbox())
            await self._subscribe(listener.subject, listener.receive)
        listener.deliver = deliver
        self._listeners.add(listener)
        return listener

    def release(self, listener: "Listener", *, for_seconds: float) -> None:
        """Messages may still arrive for so long: they are returned to the queue, and only then is the listener
        reused."""
        listener.deliver = None
        self._listeners.discard(listener)
        if for_seconds > 0:
            asyncio.get_running_loop().call_later(for_seconds, self._idle.append, listener)
        else:
            self._idle.append(listener)

    async def watch(self) -> None:
        """Returns when the link is broken; `trouble` says why."""
        while self.is_connected and not self.broken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self.broken.wait()
                return
            try:
                await self.ping(self._settings.queue_timeout)
            except Error as error:
                self.trouble = str(error)
                return

    async def ping(self, timeout: float) -> None:
        """Returns when the server has answered, and so has read all that was sent before. Raises `LinkBroken`,
        `NoAnswer`.

        With a timeout of our own: nats-py's outlasts a connection that ends meanwhile.
        """
        end, pong = asyncio.create_task(self.broken.wait()), asyncio.create_task(self.rtt(3600))
        try:
            await asyncio.wait([end, pong], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                raise LinkBroken(self.trouble)
            if not pong.done():
                raise NoAnswer("a ping")
            pong.result()
        except OSError as error:
            raise LinkBroken(str(error)) from error
        finally:
            end.cancel()
            pong.cancel()
            await asyncio.wait([end, pong], timeout=1.0)

    async def end(self) -> None:
        """Fail all that waits, and close. Leaves nothing behind, and does not wait for a peer that does not read."""
        self.broken.set()
        for answer, _ in list(self._requests.values()):
            _fail(answer, LinkBroken(self.trouble))
        for listener in list(self._listeners):
            if listener.deliver is not None:
                listener.deliver(None)
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()
        if self._reading_task is None:
            return  # it was never connected
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.close()
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None:
                task.cancel()
                await asyncio.wait([task], timeout=1.0)
                if task.done() and not task.cancelled():
                    task.exception()

    async def start(self) -> None:
        """Connect. Raises nats-py's and system errors, and `QueueMisconfigured`."""
        failures: list[Exception] = []

        async def on_error(error: Exception) -> None:
            failures[:] = [error]
            self._on_error(error)

        async def on_closed() -> None:
            self.broken.set()

        try:
            await self.connect(
                **client_options(self._settings), error_cb=on_error, disconnected_cb=on_closed, closed_cb=on_closed
            )
            self._inbox = self.new_inbox() + "."
            await self._subscribe(self._inbox + "*", self._on_answer)
        except BaseException as error:
            await self.end()
            # The last server's error says more than "No servers".
            cause = failures[0] if failures and isinstance(error, Error) else error
            raise cause from None

    async def _subscribe(self, subject: str, receive: Callable[[Msg], Any]) -> None:
        try:
            # No limits: these messages were asked for, and nats-py would drop what is beyond them.
            await self.subscribe(subject, cb=receive, pending_msgs_limit=0, pending_bytes_limit=0)
        except (Error, OSError) as error:
            raise LinkBroken(str(error)) from error

    async def _on_answer(self, message: Msg) -> None:
        waiting = self._requests.get(message.subject[len(self._inbox) :])
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(message)

    def _on_error(self, error: Exception) -> None:
        denied = _DENIED.search(str(error).lower())
        if denied is None:
            logger.debug("from the queue at %s: %s", address(self._settings), error)
            self.trouble = str(error) or self.trouble
            return
        # nats-py passes the server's words on in lower case.
        verb, subject = denied.groups()
        logger.error("the queue at %s denies its user a right: %s", address(self._settings), error)
        failure = Denied(
            f"the queue at {address(self._settings)} denies its user the right to "
            f"{'publish to' if verb == 'publish' else 'subscribe to'} {subject}: it needs $JS.API.>, $JS.ACK.>, "
            f"{self._settings.queue_prefix}.> and the subjects of destinations to publish, _INBOX.> to subscribe"
        )
        for answer, asked in list(self._requests.values()):
            if asked.lower() == subject or (verb == "subscription" and self._inbox.lower() in subject):
                _fail(answer, failure)

    def _connect_command(self) -> bytes:
        # nats-py begins TLS only where the server asks for it, whatever the URL's scheme says, and offers no other
        # hook.
        if wants_tls(self._settings) and not self._server_info.get("tls_required"):
            raise TlsRefused("the server offers no TLS, and tls:// or a certificate is set")
        command: bytes = super()._connect_command()
        return command


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
            # An event for a `receive` that is over: return it to the queue for the next one.
            with contextlib.suppress(LinkBroken, QueueUnavailable):
                await self._link.send(message.reply, NAK)


async def open_link(settings: Settings) -> Link:
    """Tries each server once. Raises `QueueMisconfigured`, nats-py's and system errors."""
    for attempt in range(REFUSALS):
        link = Link(settings)
        try:
            await link.start()
            return link
        except (ConnectionResetError, BrokenPipeError):
            # A server that refuses closes at once, and its reason can get lost. It comes with a later attempt.
            if attempt == REFUSALS - 1:
                raise
        except Error as error:
            if "authorization violation" in str(error).lower():
                raise QueueMisconfigured(
                    f"the NATS server at {address(settings)} does not accept the queue's credentials: check "
                    "KAPPA_GATEWAY_QUEUE_USER and _PASSWORD, _TOKEN, or _CREDENTIALS_FILE"
                ) from None
            raise
    raise AssertionError("the last attempt returned or raised")


def _fail(answer: "asyncio.Future[Msg]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
