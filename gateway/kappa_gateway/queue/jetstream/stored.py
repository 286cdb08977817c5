"""Reading the messages that streams keep, by subject: one message, or the newest of many."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from nats.js import JetStreamManager
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.link import LinkBroken
from kappa_gateway.queue.jetstream.management import Manager
from kappa_gateway.queue.jetstream.pull import Pull, PullFailed
from kappa_gateway.queue.jetstream.streams import reader
from kappa_gateway.queue.protocol import QueueUnavailable

_DELETE_FAILED: Final = 10057


@dataclass(frozen=True, slots=True)
class Stored:
    subject: str
    sequence: int
    headers: dict[str, str]
    payload: bytes

    @property
    def id(self) -> str:
        return self.subject.rpartition(".")[2]


async def last_of(manager: Manager, stream: str, subject: str, deadline: float) -> Stored | None:
    """The newest message of a subject. From the stream's leader, so never older than what was acknowledged."""
    return await _get(manager, stream, None, subject, deadline)


async def next_of(manager: Manager, stream: str, sequence: int, subject: str, deadline: float) -> Stored | None:
    """The first message of a subject (with wildcards) at that sequence or later."""
    return await _get(manager, stream, sequence, subject, deadline)


async def _get(manager: Manager, stream: str, sequence: int | None, subject: str, deadline: float) -> Stored | None:
    async def get(jsm: JetStreamManager) -> RawStreamMsg:
        return await jsm.get_msg(stream, sequence, subject, next=sequence is not None)

    try:
        message = await manager.call(get, deadline=deadline)
    except NotFoundError:
        return None
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    return Stored(message.subject or "", message.seq or 0, headers, message.data or b"")


async def delete(manager: Manager, stream: str, sequence: int, deadline: float) -> bool:
    """False: there is no such message any more."""
    try:
        # nats-py's manager has no `no_erase`: without it, the server overwrites the message on the disk.
        body: dict[str, object] = {"seq": sequence, "no_erase": True}
        await manager.request(f"STREAM.MSG.DELETE.{stream}", body, deadline=deadline)
        return True
    except APIError as error:
        if isinstance(error, NotFoundError) or error.err_code == _DELETE_FAILED:
            return False  # another gateway was faster
        raise


async def newest(connection: Connection, manager: Manager, stream: str, subject: str, limit: int) -> list[Stored]:
    """At least the newest `limit` messages of a subject (with wildcards), if there are so many, oldest first.

    JetStream reads forwards only. So this searches a sequence after which there are enough messages and not too many: a
    new reader says at once how many it would get.
    """
    deadline = connection.deadline()
    try:
        state = (await manager.call(lambda jsm: jsm.stream_info(stream), deadline=deadline)).state
    except NotFoundError:
        return []
    enough, too_late = state.first_seq, state.last_seq + 1
    while True:
        name, count = await _reader(manager, stream, subject, enough, deadline)
        while count > 2 * limit + 16 and too_late - enough > 1:
            middle = (enough + too_late) // 2
            other, found = await _reader(manager, stream, subject, middle, deadline)
            if found >= limit:
                await _end(manager, stream, name, deadline)
                enough, name, count = middle, other, found
            else:
                await _end(manager, stream, other, deadline)
                too_late = middle
        try:
            return await _read(connection, stream, name, count, deadline) if count else []
        except LinkBroken:
            continue  # from the same sequence, over the next link, within the same deadline
        finally:
            await _end(manager, stream, name, deadline)


async def _reader(manager: Manager, stream: str, subject: str, start: int, deadline: float) -> tuple[str, int]:
    """A consumer from `start` on: its name, and how many messages it has to deliver."""
    info = await manager.call(lambda jsm: jsm.add_consumer(stream, reader(subject, start)), deadline=deadline)
    return info.name, info.num_pending or 0


async def _end(manager: Manager, stream: str, name: str, deadline: float) -> None:
    with contextlib.suppress(APIError, QueueUnavailable):
        await manager.call(lambda jsm: jsm.delete_consumer(stream, name), deadline=deadline)


async def _read(connection: Connection, stream: str, name: str, count: int, deadline: float) -> list[Stored]:
    link = await connection.connected(deadline)
    pull = Pull(link, stream, name)
    try:
        # For as long as it takes: large messages do not all arrive within the pull's shortest time.
        await pull.run(count, deadline - asyncio.get_running_loop().time())
    except PullFailed as error:
        raise connection.unavailable(f"stream {stream} cannot be read: {error}") from None
    return [
        Stored(message.subject, message.metadata.sequence.stream, message.headers or {}, message.data)
        for message in pull.messages
    ]
