"""Deliveries to NATS subjects: a CloudEvent in binary mode, as the NATS protocol binding puts it into headers."""

from kappa_core.destinations import cloud_event_headers, message_id
from kappa_core.errors import KappaError
from kappa_core.event import Event
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.queue.protocol import Publisher

MESSAGE_ID = "Nats-Msg-Id"
"""What a JetStream stream drops repetitions by."""


class NatsSender:
    def __init__(self, publisher: Publisher | None, prefix: str) -> None:
        """`prefix` is that of the queue's own subjects, which no Function may write to."""
        self._publisher = publisher
        self._prefix = prefix

    async def send(self, event: Event, subject: str) -> None:
        """Returns once a stream has it, or the server where no stream listens; raises `DeliveryFailed`."""
        if self._publisher is None:
            raise DeliveryFailed(
                f"there is no NATS server to publish {subject} to: this installation's queue is not on one; "
                "set queue_url to a nats:// address, or choose an http or function destination",
                retryable=False,
            )
        if subject == self._prefix or subject.startswith(f"{self._prefix}."):
            raise DeliveryFailed(
                f"{subject} is not published to: subjects that begin with {self._prefix}. are the queue itself",
                retryable=False,
            )
        try:
            await self._publisher.publish(
                subject, event.payload, {**cloud_event_headers(event), MESSAGE_ID: message_id(event)}
            )
        except KappaError as error:
            raise DeliveryFailed(
                f"{subject} was not published: {error.message}",
                retryable=error.retryable,
                retry_after=error.retry_after,
            ) from error
