"""The queue on NATS JetStream."""

from kappa_gateway.queue.jetstream.queue import JetStreamQueue

__all__ = ["JetStreamQueue"]
