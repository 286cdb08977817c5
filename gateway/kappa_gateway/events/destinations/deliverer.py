"""Brings a delivery where it is to go."""

import logging
from typing import Self

from kappa_core import destinations
from kappa_core.event import Event
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.events.destinations.http import HttpSender
from kappa_gateway.events.destinations.nats import NatsSender
from kappa_gateway.queue.protocol import Publisher
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)


class Deliverer:
    """One per gateway: `async with Deliverer(settings, publisher) as deliverer`, inside the event loop.

    `publisher` is the queue where that is on NATS, else None.
    """

    def __init__(self, settings: Settings, publisher: Publisher | None) -> None:
        self._http = HttpSender(settings)
        self._nats = NatsSender(publisher, settings.queue_prefix)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    async def deliver(self, event: Event) -> None:
        """One try. Returns when the destination has taken it. Raises only `DeliveryFailed`, besides cancellation.

        Takes `delivery_timeout` seconds at most (twice that, if the receiver first closed a connection that was kept),
        or the queue's own timeout.
        """
        try:
            destination = destinations.destination_of(event)
        except ValueError as error:
            raise DeliveryFailed(
                f"the delivery {event.id} says no destination that this gateway knows: {error}", retryable=False
            ) from error
        try:
            if destination.http is not None:
                await self._http.send(event, destination.http.url)
            elif destination.nats is not None:
                await self._nats.send(event, destination.nats.subject)
            else:
                raise DeliveryFailed("a Function is invoked, not delivered to: a bug in Kappa", retryable=False)
        except DeliveryFailed:
            raise
        except Exception as error:
            logger.exception("a delivery failed in an unexpected way", extra={"event": event.id})
            raise DeliveryFailed(f"a bug in Kappa: {error!r}") from error
