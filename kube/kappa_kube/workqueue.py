"""A queue of keys to reconcile, as controllers use it.

A key waits at most once, however often it is added. It never runs twice at the same time: added while it runs, it runs
again afterwards. A key whose work failed runs again after a delay that doubles with each failure, with jitter. The
queue's size is bounded by the number of keys.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from kappa_kube.clock import CallLater, Clock, Timer, call_later

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 120.0

Work = Callable[[str], Awaitable[float | None]]
"""Handles a key. It may return the seconds until the next run; after an exception the key runs again with backoff."""


class WorkQueue:
    """`run(work)` works until it is cancelled or `stop()` is called; `stop()` lets running work finish.

    `on_error(key, error)` is called for each failure. An error's `retry_after`, in seconds, is the least delay.
    """

    def __init__(
        self,
        workers: int,
        on_error: Callable[[str, Exception], None] | None = None,
        *,
        jitter: Callable[[], float] = random.random,
        clock: Clock = time.monotonic,
        call_later: CallLater = call_later,
    ) -> None:
        self._workers = workers
        self._on_error = on_error
        self._jitter = jitter
        self._clock = clock
        self._call_later = call_later
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, tuple[float, Timer]] = {}
        """Key → when it is due, and the timer for that."""
        self._wake = asyncio.Event()
        self._stopping = False

    def __len__(self) -> int:
        """Keys that are due and wait for a worker."""
        return len(self._ready) + len(self._again)

    @property
    def idle(self) -> bool:
        return not (self._ready or self._running or self._again)

    def add(self, key: str) -> None:
        """Run the key as soon as a worker is free."""
        if self._stopping:
            return
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Run the key in `seconds` at the latest; an earlier timer stays."""
        if self._stopping or key in self._queued or key in self._again:
            return
        due = self._clock() + max(0.0, seconds)
        if key in self._timers and self._timers[key][0] <= due:
            return
        self._cancel_timer(key)
        self._timers[key] = due, self._call_later(max(0.0, seconds), lambda: self.add(key))

    async def run(self, work: Work) -> None:
        tasks = [asyncio.create_task(self._worker(work), name=f"worker {n}") for n in range(self._workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for key in list(self._timers):
                self._cancel_timer(key)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Take no more keys; `run` returns when the running work is done."""
        self._stopping = True
        self._ready.clear()
        self._queued.clear()
        self._again.clear()
        self._wake.set()

    def _cancel_timer(self, key: str) -> None:
        _, timer = self._timers.pop(key, (0.0, None))
        if timer is not None:
            timer.cancel()

    async def _worker(self, work: Work) -> None:
        while not self._stopping:
            if not self._ready:
                self._wake.clear()
                await self._wake.wait()
                continue
            key = self._ready.popleft()
            self._queued.discard(key)
            self._running.add(key)
            try:
                await self._run_one(work, key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _run_one(self, work: Work, key: str) -> None:
        try:
            delay = await work(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            if self._on_error is not None:
                self._on_error(key, error)
            # Retry-After is how long the API server wants to be left alone.
            asked = getattr(error, "retry_after", None) or 0.0
            backoff = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 20))
            self.add_after(key, max(asked, backoff * (0.5 + self._jitter() / 2)))
        else:
            self._failures.pop(key, None)
            if delay is not None:
                self.add_after(key, delay)
