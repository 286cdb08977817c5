"""Since when the server remembers its deliveries: an event that was stored later, and is delivered first, is fresh.

A server that crashes forgets its last deliveries. Its id is another after each start. The time at which the first
gateway saw an id is noted in a stream; the server ran at that time already. In a cluster a consumer moves from server
to server while connections last: there it is the time of this connection, and of each new leader. All times are the
server's own: microseconds since the epoch.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from nats.js.api import Header
from nats.js.errors import APIError

from kappa_gateway.queue.jetstream.link import Link
from kappa_gateway.queue.jetstream.management import Manager
from kappa_gateway.queue.jetstream.names import Names

_OTHERS_WERE_FIRST: Final = 10071
ROUNDING: Final = 2
"""Microseconds: nats-py reads nanoseconds through a float."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def remembers_since(link: Link, manager: Manager, names: Names, timeout: float, deadline: float) -> int:
    """Raises what nats-py's manager raises."""
    subject = names.mark(link.id if link.clustered else link.server_id)
    try:
        expected = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: "0"}
        await link.js.publish(subject, timeout=timeout, headers=expected)
    except APIError as error:
        if error.err_code != _OTHERS_WERE_FIRST:
            raise
    message = await manager.call(lambda jsm: jsm.get_last_msg(names.progress, subject), deadline=deadline)
    return server_time(message.time or _EPOCH)


def server_time(moment: datetime) -> int:
    """Rounded up: it is later by up to `ROUNDING`."""
    return (moment - _EPOCH) // timedelta(microseconds=1) + ROUNDING
