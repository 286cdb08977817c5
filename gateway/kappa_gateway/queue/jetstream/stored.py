"""Reading what streams keep, by subject: one message, or the newest of many."""

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from typing import Final

from kappa_gateway.queue.jetstream.api import NOT_FOUND, Api, ApiError
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.delivery import Pull, PullFailed
from kappa_gateway.queue.jetstream.encoding import parse_headers
from kappa_gateway.queue.jetstream.link import LinkBroken
from kappa_gateway.queue.jetstream.streams import Config, nanoseconds
from kappa_gateway.queue.protocol import QueueUnavailable

READER_LIFE: Final = 10.0
"""Seconds after which the server drops a reader that nobody ended."""


@dataclass(frozen=True, slots=True)
class Stored:
    subject: str
    sequence: int
    headers: dict[str, str]
    payload: bytes

    @property
    def id(self) -> str:
        return self.subject.rpartition(".")[2]


async def get_message(api: Api, stream: str, what: Config, deadline: float) -> Stored | None:
    """From the stream's leader, so never older than what was acknowledged; `what` is JetStream's `last_by_subj`,
    or `seq` with `next_by_subj`. None: there is none."""
    try:
        message = (await api.call(f"STREAM.MSG.GET.{stream}", what, deadline=deadline))["message"]
    except ApiError as error:
        if error.code == NOT_FOUND:
            return None
        raise
    headers = parse_headers(base64.b64decode(message.get("hdrs", "")))
    return Stored(message["subject"], int(message["seq"]), headers, base64.b64decode(message.get("data", "")))


async def newest(connection: Connection, api: Api, stream: str, subject: str, limit: int) -> list[Stored]:
    """At least the newest `limit` messages of a subject (with wildcards), if there are so many, oldest first.

    JetStream reads forwards only. So this looks for a place in the stream after which there are enough and not too many:
    a new reader says at once how many it would get.
    """
    deadline = connection.deadline()
    try:
        state = (await api.call(f"STREAM.INFO.{stream}", deadline=deadline))["state"]
    except ApiError as error:
        if error.code == NOT_FOUND:
            return []
        raise
    enough, too_late = int(state["first_seq"]), int(state["last_seq"]) + 1
    while True:
        start, count = enough, 0
        reader, count = await _reader(api, stream, subject, start, deadline)
        while count > 2 * limit + 16 and too_late - enough > 1:
            middle = (enough + too_late) // 2
            other, found = await _reader(api, stream, subject, middle, deadline)
            if found >= limit:
                await _end(api, stream, reader, deadline)
                enough, reader, count = middle, other, found
            else:
                await _end(api, stream, other, deadline)
                too_late = middle
        try:
            return await _read(connection, stream, reader, count, deadline) if count else []
        except LinkBroken:
            continue  # from where it was, over the next link, within the same deadline
        finally:
            await _end(api, stream, reader, deadline)


async def _reader(api: Api, stream: str, subject: str, start: int, deadline: float) -> tuple[str, int]:
    """A consumer from `start` on: its name, and how many messages it has before it."""
    config = {
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": max(start, 1),
        "filter_subject": subject,
        "replay_policy": "instant",
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": nanoseconds(READER_LIFE),
    }
    made = await api.call(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}, deadline=deadline)
    return str(made["name"]), int(made["num_pending"])


async def _end(api: Api, stream: str, reader: str, deadline: float) -> None:
    with contextlib.suppress(ApiError, QueueUnavailable):
        await api.call(f"CONSUMER.DELETE.{stream}.{reader}", deadline=deadline)


async def _read(connection: Connection, stream: str, reader: str, count: int, deadline: float) -> list[Stored]:
    link = await connection.connected(deadline)
    pull = Pull(link, stream, reader)
    try:
        # for as long as it takes: large messages are not all here within the pull's shortest time
        await pull.run(count, deadline - asyncio.get_running_loop().time())
    except PullFailed as error:
        raise connection.unavailable(f"stream {stream} cannot be read: {error}") from None
    return [
        Stored(message.subject, int(message.reply.split(".")[5]), message.headers or {}, message.data)
        for message in pull.messages
    ]
