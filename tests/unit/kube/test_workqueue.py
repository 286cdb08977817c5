"""The work queue's promises: once at a time, once in line, backoff, and a stop that loses nothing in work."""

import asyncio
from collections.abc import Callable
from typing import Any

from fake_clock import FakeClock
from waiting import eventually

from kappa_kube.workqueue import FIRST_DELAY, WorkQueue


class Work:
    """Records runs; `gate` holds each until it is set."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.running: list[str] = []
        self.most = 0
        self.gate: asyncio.Event | None = None
        self.fail: Callable[[str], bool] = lambda key: False
        self.again: dict[str, float] = {}

    async def __call__(self, key: str) -> float | None:
        assert key not in self.running, "a key runs once at a time"
        self.running.append(key)
        self.most = max(self.most, len(self.running))
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running.remove(key)
        self.runs.append(key)
        if self.fail(key):
            raise RuntimeError("no")
        return self.again.pop(key, None)


async def until(condition: Callable[[], Any]) -> None:
    await eventually(condition, "the work")


class Running:
    def __init__(self, queue: WorkQueue, work: Any) -> None:
        self.queue = queue
        self.work = work

    async def __aenter__(self) -> WorkQueue:
        self.task = asyncio.create_task(self.queue.run(self.work))
        await asyncio.sleep(0)
        return self.queue

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_key_added_often_runs_once() -> None:
    work = Work()
    queue = WorkQueue(2)
    for _ in range(5):
        queue.add("a")
    async with Running(queue, work):
        await until(lambda: queue.idle)
    assert work.runs == ["a"]


async def test_a_key_added_while_it_runs_runs_again_afterwards() -> None:
    work = Work()
    work.gate = asyncio.Event()
    async with Running(WorkQueue(4), work) as queue:
        queue.add("a")
        await until(lambda: work.running == ["a"])
        queue.add("a")
        queue.add("a")
        work.gate.set()
        await until(lambda: queue.idle)
    assert work.runs == ["a", "a"]


async def test_no_more_run_at_once_than_there_are_workers() -> None:
    work = Work()
    async with Running(WorkQueue(3), work) as queue:
        for number in range(50):
            queue.add(str(number))
        await until(lambda: queue.idle)
    assert len(work.runs) == 50
    assert work.most == 3


async def test_what_fails_comes_back_and_is_reported(clock: FakeClock) -> None:
    work, errors = Work(), []
    work.fail = lambda key: len(work.runs) < 3
    queue = WorkQueue(1, lambda key, error: errors.append((key, str(error))), clock=clock, call_later=clock.call_later)
    async with Running(queue, work):
        queue.add("a")
        for count in (1, 2):
            await until(lambda count=count: len(errors) == count and clock.timers)
            clock.advance(1)
        await until(lambda: len(work.runs) == 3 and queue.idle)
    assert errors == [("a", "no"), ("a", "no")]
    assert clock.timers == []


async def test_each_failure_waits_longer_and_a_success_forgets_them(clock: FakeClock) -> None:
    work = Work()
    work.fail = lambda key: True
    delays: list[float] = []
    queue = WorkQueue(1, jitter=lambda: 1.0, clock=clock, call_later=clock.call_later)
    async with Running(queue, work):
        queue.add("a")
        for _ in range(4):
            await until(lambda: clock.timers)
            delays += clock.delays()
            work.fail = lambda key: len(work.runs) < 5
            clock.advance(delays[-1])
        await until(lambda: len(work.runs) == 5 and queue.idle)
        assert clock.timers == []
        work.fail = lambda key: True
        queue.add("a")
        await until(lambda: clock.timers)
        delays += clock.delays()
    assert delays == [FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4, FIRST_DELAY * 8, FIRST_DELAY]


async def test_the_api_servers_word_for_waiting_counts(clock: FakeClock) -> None:
    class Busy(Exception):
        retry_after = 7.0

    async def work(key: str) -> None:
        raise Busy

    queue = WorkQueue(1, clock=clock, call_later=clock.call_later)
    async with Running(queue, work):
        queue.add("a")
        await until(lambda: clock.timers)
        assert clock.delays() == [7.0]


async def test_the_earlier_of_two_times_counts_and_an_add_replaces_both(clock: FakeClock) -> None:
    work = Work()
    queue = WorkQueue(1, clock=clock, call_later=clock.call_later)
    async with Running(queue, work):
        queue.add_after("a", 60)
        queue.add_after("a", 10)
        queue.add_after("a", 30)
        assert clock.delays() == [10.0]
        clock.advance(9.9)
        assert queue.idle
        clock.advance(0.2)
        await until(lambda: work.runs == ["a"])
        queue.add_after("b", 20)
        queue.add("b")
        await until(lambda: work.runs == ["a", "b"])
        assert clock.timers == []


async def test_work_may_ask_to_come_back(clock: FakeClock) -> None:
    work = Work()
    work.again["a"] = 5.0
    queue = WorkQueue(1, clock=clock, call_later=clock.call_later)
    async with Running(queue, work):
        queue.add("a")
        await until(lambda: clock.timers)
        clock.advance(5.0)
        await until(lambda: work.runs == ["a", "a"])


async def test_the_event_loops_own_timers_are_the_default() -> None:
    work = Work()
    work.again["a"] = 0.001
    async with Running(WorkQueue(1), work) as queue:
        queue.add("a")
        await until(lambda: work.runs == ["a", "a"])


async def test_what_waits_for_its_time_ends_with_the_queue(clock: FakeClock) -> None:
    work = Work()
    async with Running(WorkQueue(1, clock=clock, call_later=clock.call_later), work) as queue:
        queue.add_after("a", 5)
    assert clock.timers == []


async def test_a_stop_ends_what_runs_and_drops_what_waits() -> None:
    work = Work()
    work.gate = asyncio.Event()
    queue = WorkQueue(1)
    task = asyncio.create_task(queue.run(work))
    queue.add("a")
    queue.add("b")
    await until(lambda: work.running == ["a"])
    queue.stop()
    queue.add("c")
    assert not queue.idle
    work.gate.set()
    await until(lambda: queue.idle)
    await asyncio.wait_for(task, 1)
    assert work.runs == ["a"]
