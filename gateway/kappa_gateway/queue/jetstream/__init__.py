"""The queue on NATS JetStream."""
