"""What the queue has confirmed survives the death of the gateway and of the server."""

import asyncio
import json
import sys
from collections import defaultdict

import queue_worker
from queue_contract import (
    LANE,
    LONG,
    Queues,
    a_dead_event,
    a_record,
    an_event,
    enqueue_many,
    ids_of,
    receive_one,
    receive_some,
)
from waiting import eventually

from kappa_core.event import Status

LEASE = 2.0


async def test_everything_is_there_after_a_restart(queues: Queues) -> None:
    queue = await queues.open()
    ids = await enqueue_many(queue, 5)
    done, retried = await receive_some(queue, 2)
    await queue.ack(done)
    await queue.nack(retried, 60.0)
    record, dead = a_record("ended", Status.SUCCEEDED, result="1"), a_dead_event(an_event("dead"))
    await queue.save_record(record)
    await queue.dead_letter(dead)
    for _ in range(2):
        queue = await queues.reopen(queue)
        assert ids_of(await queue.events(LANE, limit=10)) == ids[1:]
        (state,) = [state for state in await queue.lanes() if state.lane == LANE]
        assert (state.waiting, state.held) == (3, 1)
        assert await queue.record(LANE.namespace, LANE.function, "ended") == record
        assert await queue.dead_event(LANE.namespace, LANE.function, "dead") == dead
    fresh = await receive_some(queue, 3)
    assert ids_of(fresh) == ids[2:]
    assert all(lease.fresh for lease in fresh)


async def test_a_retry_keeps_its_time_over_a_restart(queues: Queues) -> None:
    queue = await queues.open()
    await enqueue_many(queue, 1)
    delay = queues.seconds(1.5)
    await queue.nack(await receive_one(queue), delay)
    queue = await queues.reopen(queue)
    queues.skip(delay)
    again = await receive_one(queue)
    assert (again.event.id, again.receive_count, again.fresh) == ("event-0000", 2, False)


async def test_a_gateway_killed_at_any_moment_loses_nothing(queues: Queues) -> None:
    """Three in a row, on the same queue: `kill -9` while they enqueue, receive and acknowledge as fast as they can."""
    said: dict[str, list[str]] = defaultdict(list)
    for _ in range(3):
        await _work_and_die(queues, said, events=150)
    queue = await queues.open(queue_lease=LEASE)
    queues.skip(LEASE)
    there: list[str] = []
    while leases := await queue.receive(LANE, 100, 0.1 if queues.backend.clock else LEASE + 2.0):
        there += ids_of(leases)
        for lease in leases:
            await queue.ack(lease)
    assert len(there) == len(set(there)), "an event is in the queue once"
    assert not set(there) & set(said["acked"]), "what was acknowledged is gone for good"
    assert set(said["enqueued"]) - set(said["acking"]) <= set(there), "what was enqueued and not acknowledged is there"
    assert len(said["acked"]) > 10, "it was killed in the middle of work"


async def _work_and_die(queues: Queues, said: dict[str, list[str]], events: int) -> None:
    arguments = [json.dumps(queues.backend.options), json.dumps({"queue_lease": LEASE}), "20"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, queue_worker.__file__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    before = len(said["enqueued"])

    async def listen() -> None:
        async for line in process.stdout or ():
            if line.endswith(b"\n"):
                what, event_id = line.decode().split()
                said[what].append(event_id)

    listening = asyncio.create_task(listen())
    try:
        await eventually(
            lambda: len(said["enqueued"]) - before >= events or listening.done(),
            "events put by a child",
            within=3 * LONG,
        )
    finally:
        process.kill()
        await process.wait()
        await listening
    assert len(said["enqueued"]) - before >= events
