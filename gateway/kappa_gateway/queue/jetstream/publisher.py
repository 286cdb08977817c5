"""Publishing for destinations: subjects that are the user's own."""

import asyncio
import re
from typing import Final

from nats.errors import Error

from kappa_core.errors import InvalidRequest, RequestTooLarge
from kappa_gateway.queue.jetstream.api import PAUSE, Api, ApiError, parse
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import header_bytes
from kappa_gateway.queue.jetstream.link import LinkBroken, NoAnswer, NoResponders
from kappa_gateway.queue.protocol import QueueFull
from kappa_gateway.settings import Settings

_SUBJECT: Final = re.compile(r"[^\s*>]+\Z")


async def publish(
    settings: Settings, connection: Connection, subject: str, payload: bytes, headers: dict[str, str]
) -> None:
    """See `Publisher.publish`. Asks for the stream each time: one may come or go at any time, and deliveries are few."""
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
        try:
            found = await Api(link, settings).call("STREAM.NAMES", {"subject": subject}, deadline=deadline)
            if not found.get("streams"):
                await link.send(subject, payload, headers=headers or None)
                await link.flush(deadline)
                return
            message = await link.ask(subject, payload, headers or None, deadline=deadline)
            parse(message.data)
            return
        except ApiError as error:
            if not error.temporary:
                raise QueueFull(f"the stream that listens to {subject} took no message: {error}") from error
            why = str(error)
        except NoAnswer as error:
            raise connection.unavailable(str(error)) from error
        except NoResponders:
            why = f"the stream that listened to {subject} has gone"
        except (LinkBroken, Error) as error:
            connection.gone(link)
            why = str(error)
        if asyncio.get_running_loop().time() + PAUSE > deadline:
            raise connection.unavailable(why)
        await asyncio.sleep(PAUSE)
