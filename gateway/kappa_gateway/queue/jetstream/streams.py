"""The settings of streams and consumers, as JetStream's API takes them. Pure.

https://docs.nats.io/nats-concepts/jetstream/streams and …/consumers; durations are nanoseconds there.
"""

from typing import Any, Final

from kappa_gateway.queue.jetstream.names import CONSUMER, Names
from kappa_gateway.settings import Settings

MAX_HELD: Final = 100_000
"""Events of a lane that may be in hand or wait for their retry's time; then the lane waits."""
MAX_EVENT_AGE: Final = 6 * 3600.0
"""The largest `maxAge` of a Function, seconds."""
MARGIN: Final = 3600.0
Config = dict[str, Any]
"""`Any`: JSON."""


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def lane_stream(settings: Settings, name: str, subject: str) -> Config:
    """A work queue: an event is gone once it is acknowledged. One message per subject, and a second one is refused, so
    an id that is in its lane cannot be added again, however long it waits."""
    return {
        **_stream(settings, name, [subject]),
        "retention": "workqueue",
        "discard": "new",
        "discard_new_per_subject": True,
        "max_bytes": settings.queue_max_bytes or -1,
        "max_age": 0,
        "duplicate_window": nanoseconds(settings.queue_deduplication_window),
    }


def lane_consumer(settings: Settings) -> Config:
    return {
        "durable_name": CONSUMER,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(settings.queue_lease),
        "max_deliver": -1,
        "max_ack_pending": MAX_HELD,
        "max_waiting": 512,
    }


def shared_streams(settings: Settings, names: Names) -> list[Config]:
    """Final records, records in progress (as long as any event can live), the dead letter: each keeps the newest of an id."""
    prefix = names.prefix
    progress = max(MAX_EVENT_AGE, settings.delivery_max_age) + MARGIN
    return [
        _latest(settings, names.records, [f"{prefix}.record.*.*.*"], settings.result_retention),
        _latest(settings, names.progress, [f"{prefix}.progress.*.*.*", names.mark("*")], progress),
        _latest(settings, names.dead, [f"{prefix}.dead.*.*.*"], settings.dead_letter_retention),
    ]


def _latest(settings: Settings, name: str, subjects: list[str], max_age: float) -> Config:
    return {
        **_stream(settings, name, subjects),
        "retention": "limits",
        "discard": "old",
        "max_bytes": -1,
        "max_age": nanoseconds(max_age),
        # The server refuses a window that is longer than the stream's age; nothing here is deduplicated.
        "duplicate_window": nanoseconds(min(max_age, 1.0)),
    }


def _stream(settings: Settings, name: str, subjects: list[str]) -> Config:
    return {
        "name": name,
        "subjects": subjects,
        "storage": "file",
        "num_replicas": settings.queue_replicas,
        "max_msgs": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "max_msgs_per_subject": 1,
    }
