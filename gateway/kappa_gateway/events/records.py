"""An event's record, as its next run reads it."""

from dataclasses import replace
from typing import Final

from kappa_core.event import Record, Status
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.holding import History
from kappa_gateway.queue.protocol import EventLease, Queue

SAME: Final = 0.001
"""Seconds by which the times of one submission may differ after encoding."""


async def look_up(queue: Queue, availability: QueueAvailability, lease: EventLease) -> Record | None:
    """What is known of the event; None where nothing is. Waits while the queue is away."""
    event, lane = lease.event, lease.event.lane
    record = await availability.until_answered(lambda: queue.record(lane.namespace, lane.function, event.id))
    if record is not None and record.received_at < event.received_at - SAME:
        # The same key was submitted again, long after: that record is the earlier event's. The queue keeps it if it is
        # final, so the attempts of this one are known from the receive count alone.
        return replace(record, status=Status.RUNNING, attempts=lease.receive_count - 1, postponements=0, error=None)
    return record


def history_of(record: Record | None) -> History:
    return History() if record is None else History(record.attempts, record.postponements, record.error)


def may_have_been_attempted(lease: EventLease, record: Record | None) -> bool:
    """Whether an attempt may have begun of which the record says nothing."""
    if lease.fresh:
        return False
    if not lease.counted:
        # such as NATS' after its crash: it delivers for the first time what a gateway held before
        return True
    untouched = (
        record is not None and record.status is Status.RETRYING and record.receive_count == lease.receive_count - 1
    )
    return lease.receive_count > 1 and not untouched
