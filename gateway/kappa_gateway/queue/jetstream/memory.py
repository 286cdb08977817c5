"""Since when the server remembers what it handed out: what was stored later, and comes for the first time, is fresh.

A server that dies forgets its last hand-outs. Its id is another after each start, so the time at which an id was first
seen, noted in a stream by whichever gateway came first, is a time at which it ran already. In a cluster a consumer
moves from server to server while connections last: there it is the time of this connection, and of each new leader.
All times are the server's own: nanoseconds since the epoch.
"""

from datetime import UTC, datetime
from typing import Final

from kappa_gateway.queue.jetstream.api import Api, ApiError
from kappa_gateway.queue.jetstream.link import Link
from kappa_gateway.queue.jetstream.names import Names

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_OTHERS_WERE_FIRST: Final = 10071
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def remembers_since(link: Link, api: Api, names: Names, deadline: float) -> int:
    """Raises what `Api` raises."""
    subject = names.mark(link.id if link.clustered else link.server_id)
    try:
        await api.publish(subject, b"", {_EXPECTED: "0"}, deadline=deadline)
    except ApiError as error:
        if error.err_code != _OTHERS_WERE_FIRST:
            raise
    answer = await api.call(f"STREAM.MSG.GET.{names.progress}", {"last_by_subj": subject}, deadline=deadline)
    return server_time(answer["message"]["time"])


def server_time(text: str) -> int:
    """Of RFC 3339, rounded up to microseconds."""
    since = datetime.fromisoformat(text) - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds + 1) * 1000
