"""The settings of streams and consumers. Pure.

https://docs.nats.io/nats-concepts/jetstream/streams and …/consumers; durations are seconds in nats-py.
"""

from typing import Final

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    ReplayPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from kappa_gateway.queue.jetstream.names import CONSUMER, Names
from kappa_gateway.settings import Settings

MAX_HELD: Final = 100_000
"""Events of a lane that may be leased or delayed; then the lane waits."""
MAX_EVENT_AGE: Final = 6 * 3600.0
"""The largest `maxAge` of a Function, seconds."""
MARGIN: Final = 3600.0
READER_LIFE: Final = 10.0
"""Seconds after which the server drops a reader that nobody deleted."""


def lane_stream(settings: Settings, name: str, subject: str) -> StreamConfig:
    """A work queue: an event is gone once it is acknowledged. One message per subject, and a second one is refused, so
    an id that is in its lane cannot be added again, however long it waits."""
    return _stream(settings, name, [subject]).evolve(
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        max_bytes=settings.queue_max_bytes or -1,
        max_age=0,
        duplicate_window=settings.queue_deduplication_window,
    )


def lane_consumer(settings: Settings) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=CONSUMER,
        deliver_policy=DeliverPolicy.ALL,
        replay_policy=ReplayPolicy.INSTANT,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=settings.queue_lease,
        max_deliver=-1,
        max_ack_pending=MAX_HELD,
        max_waiting=512,
    )


def reader(subject: str, start: int) -> ConsumerConfig:
    """Reads a stream's messages of a subject (with wildcards) from the sequence `start` on."""
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=max(start, 1),
        filter_subject=subject,
        replay_policy=ReplayPolicy.INSTANT,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=READER_LIFE,
    )


def shared_streams(settings: Settings, names: Names) -> list[StreamConfig]:
    """Final records, records in progress (as long as any event can live), the dead letter: each keeps the newest of an
    id."""
    prefix = names.prefix
    progress = max(MAX_EVENT_AGE, settings.delivery_max_age) + MARGIN
    return [
        _latest(settings, names.records, [f"{prefix}.record.*.*.*"], settings.result_retention),
        _latest(settings, names.progress, [f"{prefix}.progress.*.*.*", names.mark("*")], progress),
        _latest(settings, names.dead, [f"{prefix}.dead.*.*.*"], settings.dead_letter_retention),
    ]


def _latest(settings: Settings, name: str, subjects: list[str], max_age: float) -> StreamConfig:
    return _stream(settings, name, subjects).evolve(
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        max_bytes=-1,
        max_age=max_age,
        # The server refuses a window that is longer than the stream's age; nothing here is deduplicated.
        duplicate_window=min(max_age, 1.0),
    )


def _stream(settings: Settings, name: str, subjects: list[str]) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=subjects,
        storage=StorageType.FILE,
        num_replicas=settings.queue_replicas,
        max_msgs=-1,
        max_consumers=-1,
        max_msg_size=-1,
        max_msgs_per_subject=1,
    )
