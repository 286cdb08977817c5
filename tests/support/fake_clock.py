"""A clock that moves only when a test moves it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class FakeTimer:
    due: float
    callback: Callable[[], None]
    clock: "FakeClock"

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


class FakeClock:
    """Call it for the time; pass `sleep` and `call_later` where the code under test waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[FakeTimer] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on, and call what is due in between, in order."""
        end = self.now + seconds
        while (timer := min(self.timers, key=lambda each: each.due, default=None)) and timer.due <= end:
            timer.cancel()
            self.now = max(self.now, timer.due)
            timer.callback()
        self.now = end

    async def sleep(self, seconds: float) -> None:
        """Moves the clock, and lets other tasks run once."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + seconds, callback, self)
        self.timers.append(timer)
        return timer

    def delays(self) -> list[float]:
        """Seconds until each timer is due."""
        return [round(timer.due - self.now, 6) for timer in self.timers]
