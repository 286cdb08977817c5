"""Publishing for destinations: subjects that are the user's own."""

import asyncio
import re
from typing import Final

from nats.errors import Error
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from kappa_core.errors import InvalidRequest, RequestTooLarge
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import header_bytes
from kappa_gateway.queue.jetstream.link import NoAnswer
from kappa_gateway.queue.jetstream.management import PAUSE, Manager, explain, is_temporary
from kappa_gateway.queue.protocol import QueueFull
from kappa_gateway.settings import Settings

_SUBJECT: Final = re.compile(r"[^\s*>]+\Z")


async def publish(
    settings: Settings, connection: Connection, subject: str, payload: bytes, headers: dict[str, str]
) -> None:
    """See `Publisher.publish`. Looks for the stream each time: one may come or go at any time, and deliveries are few."""
    if not _SUBJECT.match(subject):
        raise InvalidRequest(f"{subject!r} is no NATS subject to publish to: no spaces, no wildcards")
    deadline = connection.deadline()
    while True:
        link = await connection.connected(deadline)
        size = len(payload) + (header_bytes(headers) if headers else 0)
        if size > link.max_payload:
            raise RequestTooLarge(
                f"the message for {subject} has {size} bytes, and the NATS server at {connection.address} takes "
                f"{link.max_payload}: raise max_payload in its configuration"
            )
        loop = asyncio.get_running_loop()
        try:
            manager = Manager(link, settings)
            await manager.call(lambda jsm: jsm.find_stream_name_by_subject(subject), deadline=deadline)
            await link.js.publish(subject, payload, max(deadline - loop.time(), 0.0), headers=headers or None)
            return
        except NotFoundError:
            await link.send(subject, payload, headers=headers or None)
            await link.ping(deadline - loop.time())
            return
        except APIError as error:
            if not is_temporary(error):
                raise QueueFull(f"the stream that listens to {subject} took no message: {explain(error)}") from error
            why = explain(error)
        except NoAnswer as error:
            raise connection.unavailable(str(error)) from error
        except NoStreamResponseError:
            why = f"the stream that listened to {subject} is gone"
        except Error as error:
            connection.gone(link)
            why = str(error)
        if asyncio.get_running_loop().time() + PAUSE > deadline:
            raise connection.unavailable(why)
        await asyncio.sleep(PAUSE)
