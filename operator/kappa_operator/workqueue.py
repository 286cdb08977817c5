"""A queue of keys to reconcile, as controllers use it.

A key waits at most once, however often it is added; it never runs twice at the same time (added while it runs, it runs
again afterwards); failures come back later and later, with jitter. The queue's size is bounded by the number of keys.
"""

import asyncio
import contextlib
import heapq
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 120.0


class WorkQueue:
    """`work(key)` may return seconds after which to come back; an exception comes back with backoff.

    `run()` works until it is cancelled or `stop()` is called; `stop()` lets what runs finish.
    """

    def __init__(
        self,
        work: Callable[[str], Awaitable[float | None]],
        workers: int,
        on_error: Callable[[str, Exception], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._workers = workers
        self._on_error = on_error
        self._jitter = jitter
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._timers: list[tuple[float, str]] = []
        self._wake = asyncio.Event()
        self._timer_wake = asyncio.Event()
        self._stopping = False

    def __len__(self) -> int:
        """Keys that wait now, without those that wait for their time."""
        return len(self._ready) + len(self._again)

    @property
    def idle(self) -> bool:
        return not (self._ready or self._running or self._again)

    def add(self, key: str) -> None:
        """Run the key as soon as a worker is free."""
        if self._stopping:
            return
        self._due.pop(key, None)
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Run the key in `seconds` at the latest; an earlier time that is set already stays."""
        if self._stopping:
            return
        due = asyncio.get_running_loop().time() + max(0.0, seconds)
        if key in self._queued or key in self._again or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, key))
        self._timer_wake.set()

    def forget(self, key: str) -> None:
        """The key is gone for good: no backoff and no time is kept for it."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._worker(), name=f"worker {n}") for n in range(self._workers)]
        timer = asyncio.create_task(self._keep_time(), name="work queue timer")
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in [*tasks, timer]:
                task.cancel()
            await asyncio.gather(*tasks, timer, return_exceptions=True)

    def stop(self) -> None:
        """Take no more keys; `run` returns when those in work are done."""
        self._stopping = True
        self._ready.clear()
        self._queued.clear()
        self._again.clear()
        self._wake.set()

    async def _worker(self) -> None:
        while not self._stopping:
            if not self._ready:
                self._wake.clear()
                await self._wake.wait()
                continue
            key = self._ready.popleft()
            self._queued.discard(key)
            self._running.add(key)
            try:
                await self._run_one(key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _run_one(self, key: str) -> None:
        try:
            delay = await self._work(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            if self._on_error is not None:
                self._on_error(key, error)
            # Retry-After is the API server's own word for how long to leave it alone.
            asked = getattr(error, "retry_after", None) or 0.0
            backoff = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 20))
            self.add_after(key, max(asked, backoff * (0.5 + self._jitter() / 2)))
        else:
            self._failures.pop(key, None)
            if delay is not None:
                self.add_after(key, delay)

    async def _keep_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._timer_wake.clear()
            while self._timers and self._timers[0][0] <= loop.time():
                due, key = heapq.heappop(self._timers)
                # A time that was replaced by an earlier one, or by an add, is void.
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            wait = self._timers[0][0] - loop.time() if self._timers else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._timer_wake.wait(), wait)
