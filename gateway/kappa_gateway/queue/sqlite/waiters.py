"""The calls in this process that wait for events of a lane."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from kappa_core.event import Lane


class Waiters:
    def __init__(self) -> None:
        self._waiting: dict[Lane, set[asyncio.Event]] = {}

    @contextmanager
    def waiter(self, lane: Lane) -> Iterator[asyncio.Event]:
        """Set once an event has come into the lane, or has got another due time."""
        news = asyncio.Event()
        self._waiting.setdefault(lane, set()).add(news)
        try:
            yield news
        finally:
            others = self._waiting[lane]
            others.discard(news)
            if not others:
                del self._waiting[lane]

    def wake(self, lane: Lane) -> None:
        for news in self._waiting.get(lane, ()):
            news.set()

    def wake_all(self) -> None:
        for lane in self._waiting:
            self.wake(lane)
