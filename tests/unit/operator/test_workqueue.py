"""The work queue's promises: once at a time, once in line, backoff, and a stop that loses nothing in work."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kappa_operator.workqueue import FIRST_DELAY, WorkQueue


class Work:
    """Records runs; `block` holds each until told."""

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
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not so in time")


class Running:
    def __init__(self, queue: WorkQueue) -> None:
        self.queue = queue

    async def __aenter__(self) -> WorkQueue:
        self.task = asyncio.create_task(self.queue.run())
        await asyncio.sleep(0)
        return self.queue

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_key_added_often_runs_once() -> None:
    work = Work()
    queue = WorkQueue(work, 2)
    for _ in range(5):
        queue.add("a")
    async with Running(queue):
        await until(lambda: queue.idle)
    assert work.runs == ["a"]


async def test_a_key_added_while_it_runs_runs_again_afterwards() -> None:
    work = Work()
    work.gate = asyncio.Event()
    async with Running(WorkQueue(work, 4)) as queue:
        queue.add("a")
        await until(lambda: work.running == ["a"])
        queue.add("a")
        queue.add("a")
        work.gate.set()
        await until(lambda: queue.idle)
    assert work.runs == ["a", "a"]


async def test_no_more_run_at_once_than_there_are_workers() -> None:
    work = Work()
    async with Running(WorkQueue(work, 3)) as queue:
        for number in range(50):
            queue.add(str(number))
        await until(lambda: queue.idle)
    assert len(work.runs) == 50
    assert work.most == 3


async def test_what_fails_comes_back_and_is_reported() -> None:
    work, errors = Work(), []
    work.fail = lambda key: len(work.runs) < 3
    queue = WorkQueue(work, 1, lambda key, error: errors.append((key, str(error))), jitter=lambda: 0.0)
    async with Running(queue):
        queue.add("a")
        await until(lambda: len(work.runs) == 3)
    assert errors == [("a", "no"), ("a", "no")]


async def test_each_failure_waits_longer_and_a_success_forgets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    work.fail = lambda key: True
    delays: list[float] = []
    queue = WorkQueue(work, 1, jitter=lambda: 1.0)
    monkeypatch.setattr(queue, "add_after", lambda key, seconds: delays.append(seconds))
    async with Running(queue):
        for count in range(1, 5):
            queue.add("a")
            await until(lambda count=count: len(delays) == count)
        work.fail = lambda key: False
        queue.add("a")
        await until(lambda: queue.idle)
        work.fail = lambda key: True
        queue.add("a")
        await until(lambda: len(delays) == 5)
    assert delays == [FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4, FIRST_DELAY * 8, FIRST_DELAY]


async def test_the_api_servers_word_for_waiting_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Exception):
        retry_after = 7.0

    async def work(key: str) -> None:
        raise Busy

    delays: list[float] = []
    queue = WorkQueue(work, 1)
    monkeypatch.setattr(queue, "add_after", lambda key, seconds: delays.append(seconds))
    async with Running(queue):
        queue.add("a")
        await until(lambda: delays)
    assert delays == [7.0]


async def test_the_earlier_of_two_times_counts_and_an_add_replaces_both() -> None:
    work = Work()
    async with Running(WorkQueue(work, 1)) as queue:
        queue.add_after("a", 60)
        queue.add_after("a", 0.01)
        queue.add_after("a", 30)
        await until(lambda: work.runs == ["a"])
        queue.add_after("b", 0.02)
        queue.add("b")
        await until(lambda: work.runs == ["a", "b"])
        await asyncio.sleep(0.05)
    assert work.runs == ["a", "b"]


async def test_work_may_ask_to_come_back() -> None:
    work = Work()
    work.again["a"] = 0.005
    async with Running(WorkQueue(work, 1)) as queue:
        queue.add("a")
        await until(lambda: work.runs == ["a", "a"])


async def test_a_stop_ends_what_runs_and_drops_what_waits() -> None:
    work = Work()
    work.gate = asyncio.Event()
    queue = WorkQueue(work, 1)
    task = asyncio.create_task(queue.run())
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
