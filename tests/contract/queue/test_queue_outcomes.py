"""Records of how events went, and the dead letter."""

import asyncio
import time
from collections.abc import Awaitable

import pytest
from queue_contract import LANE, LONG, Queues, a_dead_event, a_record, an_event, enqueue_many, ids_of, receive_one

from kappa_core.event import Condition, Kind, Lane, Status
from kappa_gateway.queue.protocol import Queue

FINAL = [status for status in Status if status.final]
WHERE = (LANE.namespace, LANE.function)


async def _gone(found: Awaitable[object]) -> bool:
    return await found is None


async def test_a_record_comes_out_as_it_went_in(queue: Queue) -> None:
    progress = a_record(
        "one", attempts=1, postponements=2, receive_count=3, next_attempt=1_700_000_060.5, error={"a": "ü\n"}
    )
    ended = a_record("two", Status.SUCCEEDED, attempts=1, receive_count=1, result='{"é": 1}\n', result_truncated=True)
    for record in (progress, ended):
        await queue.save_record(record)
        assert await queue.record(*WHERE, record.id) == record
    assert await queue.record(*WHERE, "three") is None
    assert await queue.record("other", LANE.function, "one") is None
    assert await queue.record(LANE.namespace, "other", "one") is None


async def test_a_result_of_the_largest_size(queue: Queue) -> None:
    record = a_record("one", Status.SUCCEEDED, result="é" * 128 * 1024)
    await queue.save_record(record)
    assert await queue.record(*WHERE, "one") == record


async def test_the_newest_record_counts(queue: Queue) -> None:
    for attempts in range(1, 4):
        record = a_record("one", attempts=attempts, updated_at=1_700_000_000.0 + attempts)
        await queue.save_record(record)
        assert await queue.record(*WHERE, "one") == record
    assert ids_of(await queue.records(*WHERE, limit=10)) == ["one"]


@pytest.mark.parametrize("status", FINAL)
async def test_a_final_record_stays(queue: Queue, status: Status) -> None:
    await queue.save_record(a_record("one"))
    ended = a_record("one", status)
    await queue.save_record(ended)
    await queue.save_record(a_record("one", Status.RETRYING, updated_at=1_700_000_099.0))
    await queue.save_record(a_record("one", Status.RUNNING, updated_at=1_700_000_099.0))
    assert await queue.record(*WHERE, "one") == ended
    assert await queue.records(*WHERE, limit=10) == [ended]
    await queue.save_record(ended)
    assert await queue.record(*WHERE, "one") == ended


async def test_a_later_submission_of_the_same_id_has_a_record_of_its_own(queue: Queue) -> None:
    """The same idempotency key, sent again after the deduplication window."""
    await queue.save_record(a_record("one", Status.SUCCEEDED, received_at=1_700_000_000.0))
    later = a_record("one", Status.RETRYING, received_at=1_700_000_500.0, updated_at=1_700_000_501.0)
    await queue.save_record(later)
    assert await queue.record(*WHERE, "one") == later
    assert await queue.records(*WHERE, limit=10) == [later]


async def test_records_come_newest_first(queue: Queue) -> None:
    for number in range(6):
        status = Status.SUCCEEDED if number % 2 else Status.RETRYING
        await queue.save_record(a_record(f"event-{number}", status, updated_at=1_700_000_000.0 + number))
    await queue.save_record(a_record("other", lane=Lane(LANE.kind, LANE.namespace, "other")))
    assert ids_of(await queue.records(*WHERE, limit=4)) == ["event-5", "event-4", "event-3", "event-2"]
    assert len(await queue.records(*WHERE, limit=100)) == 6
    assert await queue.records("nowhere", LANE.function, limit=100) == []


async def test_final_records_go_after_their_time(queues: Queues) -> None:
    retention = queues.seconds(4.0)
    queue = await queues.open(result_retention=retention)
    saved = queues.now()
    await queue.save_record(a_record("ended", Status.FAILED))
    await queue.save_record(a_record("going-on"))
    assert await queue.record(*WHERE, "ended") is not None
    await queues.not_before(retention, lambda: _gone(queue.record(*WHERE, "ended")))
    deadline = time.monotonic() + LONG
    while await queue.record(*WHERE, "ended") is not None:
        assert time.monotonic() < deadline, "the record does not go"
        await asyncio.sleep(0.05)
    assert queues.now() - saved > retention * 0.95
    assert ids_of(await queue.records(*WHERE, limit=10)) == ["going-on"]


async def test_an_event_with_a_final_record_is_not_fresh(queues: Queues) -> None:
    """So its record is looked at: it ended, and its gateway died before it could say so."""
    lease = queues.seconds(1.0)
    queue = await queues.open(queue_lease=lease)
    await enqueue_many(queue, 1)
    await queue.save_record(a_record((await receive_one(queue)).event.id, Status.SUCCEEDED))
    queues.skip(lease)
    assert not (await receive_one(queue)).fresh


# -- the dead letter


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_dead_event_comes_out_as_it_went_in(queue: Queue, kind: Kind) -> None:
    lane = Lane(kind, *WHERE)
    event = an_event(lane=lane, payload=b"\x00\xff", attributes={"destination": '{"http": "ü\\n"}'}, keyed=True)
    dead = a_dead_event(event, condition=Condition.EVENT_AGE_EXCEEDED, attempts=0, error={"errorMessage": "a\nü"})
    await queue.dead_letter(dead)
    assert await queue.dead_event(*WHERE, event.id) == dead
    assert await queue.dead_events(*WHERE, limit=10) == [dead]
    assert await queue.dead_event(*WHERE, "another") is None
    assert await queue.dead_event("other", LANE.function, event.id) is None


async def test_a_dead_event_of_the_largest_size(queue: Queue) -> None:
    dead = a_dead_event(an_event(payload=b"\x80" * 1024 * 1024, attributes={"a": "x" * 1000}))
    await queue.dead_letter(dead)
    assert await queue.dead_event(*WHERE, dead.event.id) == dead


async def test_dead_lettering_again_replaces_the_first(queue: Queue) -> None:
    event = an_event()
    await queue.dead_letter(a_dead_event(event, attempts=1))
    await queue.dead_letter(a_dead_event(event, attempts=1))
    again = a_dead_event(event, attempts=3)
    await queue.dead_letter(again)
    assert await queue.dead_events(*WHERE, limit=10) == [again]


async def test_dead_events_come_newest_first(queue: Queue) -> None:
    for number in range(5):
        await queue.dead_letter(a_dead_event(an_event(f"event-{number}"), died_at=1_700_000_000.0 + number))
    assert ids_of(await queue.dead_events(*WHERE, limit=3)) == ["event-4", "event-3", "event-2"]
    assert ids_of(await queue.dead_events(*WHERE, limit=3, until=1_700_000_001.0)) == ["event-1", "event-0"]
    assert await queue.dead_events("nowhere", LANE.function, limit=3) == []


async def test_deleted_dead_events_are_gone(queue: Queue) -> None:
    one, other = an_event("one"), an_event("other")
    await queue.dead_letter(a_dead_event(one))
    await queue.dead_letter(a_dead_event(other))
    assert await queue.delete_dead_event(*WHERE, "one")
    assert not await queue.delete_dead_event(*WHERE, "one")
    assert not await queue.delete_dead_event("nowhere", "nothing", "one")
    assert await queue.dead_event(*WHERE, "one") is None
    assert ids_of(await queue.dead_events(*WHERE, limit=10)) == ["other"]
    again = a_dead_event(one, attempts=2)
    await queue.dead_letter(again)
    assert await queue.dead_event(*WHERE, "one") == again


async def test_dead_events_go_after_their_time(queues: Queues) -> None:
    retention = queues.seconds(4.0)
    queue = await queues.open(dead_letter_retention=retention)
    kept = queues.now()
    await queue.dead_letter(a_dead_event(an_event("one"), died_at=time.time()))
    assert await queue.dead_event(*WHERE, "one") is not None
    await queues.not_before(retention, lambda: _gone(queue.dead_event(*WHERE, "one")))
    deadline = time.monotonic() + LONG
    while await queue.dead_event(*WHERE, "one") is not None:
        assert time.monotonic() < deadline, "the dead event does not go"
        await asyncio.sleep(0.05)
    assert queues.now() - kept > retention * 0.95
    assert await queue.dead_events(*WHERE, limit=10) == []
    assert not await queue.delete_dead_event(*WHERE, "one")


async def test_purging_a_lane_leaves_records_and_dead_events(queue: Queue) -> None:
    await enqueue_many(queue, 1)
    record, dead = a_record("ended", Status.FAILED), a_dead_event(an_event("ended"))
    await queue.save_record(record)
    await queue.dead_letter(dead)
    await queue.purge(LANE)
    await queue.drop_lane(LANE)
    assert await queue.record(*WHERE, "ended") == record
    assert await queue.dead_event(*WHERE, "ended") == dead
