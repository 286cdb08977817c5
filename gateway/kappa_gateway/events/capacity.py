"""How many events a lane may receive now: pure decisions, on numbers that the pump brings.

- *Pending* events are held and have no slot yet. A lane keeps so many of them that freed slots find work for `AHEAD`
  seconds: at least one (which is also the demand that starts a function's first pod), at most `MOST_AHEAD`, and only
  one while synchronous callers wait too. Callers and events wait in one line, first come first served, so a backlog of
  a million delays a caller by what is ahead of it and no more.
- All lanes share a budget by the rule of the dynamic threshold (Choudhury and Hahne, 1998): a lane may hold at most
  `ALPHA` times what is left free. One busy lane gets two thirds of the budget, two get two fifths each, and a lane that
  comes later always finds room, whatever the others wait for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kappa_core.event import backoff

AHEAD: Final = 0.05
"""Seconds of work."""
MOST_AHEAD: Final = 64
MOST_AT_ONCE: Final = 64
"""Events received at once: more would be a lot of memory before it is known how large they are."""
ALPHA: Final = 2
LONGEST_BRAKE: Final = 30.0
"""Seconds."""


def ahead(slots: int, mean_duration: float, *, callers_wait: bool) -> int:
    """How many events of a function may wait for a slot beyond those that find one free."""
    if callers_wait or not slots or mean_duration <= 0:
        return 1
    return max(math.ceil(min(slots * AHEAD / mean_duration, MOST_AHEAD)), 1)


def share(free: int, held: int) -> int:
    """How much more a lane that holds `held` may have of a budget of which `free` is left."""
    if free <= 0:
        return 0
    more = (ALPHA * free - held) // (1 + ALPHA)
    return max(more, 0 if held else 1)


def batch(*, free_slots: int, ahead: int, pending: int) -> int:
    """How many events there is use for; 0 while so many are pending that a larger batch is worth waiting for."""
    wanted = free_slots + ahead - pending
    return wanted if wanted >= (ahead + 1) // 2 else 0


@dataclass(slots=True)
class Brake:
    """Holds a lane back whose function cannot run anything, so that its backlog is not attempted in vain.

    While it is on, one event at a time is attempted, after pauses that double. Times are of any monotonic clock.
    """

    first: float
    longest: float = LONGEST_BRAKE
    failures: int = 0
    until: float = 0.0
    _since: float = field(default=-math.inf, repr=False)

    @property
    def on(self) -> bool:
        return self.failures > 0

    def pull(self, now: float, begun: float) -> None:
        """An attempt that began at `begun` was in vain. Those that began before the last pull say nothing new."""
        if begun < self._since:
            return
        self.until = now + backoff(self.failures, self.first, max(self.first, self.longest))
        self.failures += 1
        self._since = now

    def release(self) -> None:
        """A pod answered, or the function has changed."""
        self.failures = 0
        self.until = 0.0


class Budget:
    """What all lanes may hold together: events, and bytes of their payloads. The bytes are what is known to be held;
    receiving may exceed them by one batch, as sizes are known only then."""

    def __init__(self, events: int, size: int) -> None:
        self.events = events
        self.free_events = events
        self.free_bytes = size
        self._short: dict[Callable[[], None], None] = {}
        """How to wake the lanes that wait for room, in the order in which they are served."""

    def room(self, *, held_events: int, held_bytes: int, typical_bytes: int) -> int:
        """How many more events a lane may hold that holds so much."""
        by_bytes = share(self.free_bytes, held_bytes) // max(typical_bytes, 1)
        if not held_events and self.free_bytes > 0:
            by_bytes = max(by_bytes, 1)
        return min(share(self.free_events, held_events), by_bytes, MOST_AT_ONCE, self.free_events)

    def take(self, events: int, size: int) -> None:
        self.free_events -= events
        self.free_bytes -= size

    def give(self, events: int, size: int) -> None:
        self.free_events += events
        self.free_bytes += size

    def wait(self, wake: Callable[[], None]) -> None:
        """`wake` is called once when it is this lane's turn to look whether there is room."""
        self._short[wake] = None

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        self._short.pop(wake, None)

    def wake_next(self) -> None:
        """An event has ended: the first lane that waits may look."""
        if self._short:
            wake = next(iter(self._short))
            del self._short[wake]
            wake()
