"""A pump's account of the events that it holds: how many wait for a slot, their bytes, and when retries are due."""

import heapq
from collections.abc import Callable
from typing import Final

from kappa_gateway.events.capacity import Brake, Budget

DUE_STEP: Final = 0.25
"""Seconds: retries that are due within the same step are looked for together."""


class Dues:
    """When the lane's retries are due. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._steps: list[int] = []
        """Of `DUE_STEP` each, as a heap."""
        self._known: set[int] = set()

    @property
    def next(self) -> float | None:
        return self._steps[0] * DUE_STEP if self._steps else None

    def add(self, delay: float) -> bool:
        """False: one is due in the same step already."""
        step = int((self._clock() + delay) / DUE_STEP) + 1
        if step in self._known:
            return False
        self._known.add(step)
        heapq.heappush(self._steps, step)
        return True

    def pop(self) -> bool:
        """Forget those that are due now, and say whether there were any."""
        count, now = len(self._steps), self._clock()
        while self._steps and self._steps[0] * DUE_STEP <= now:
            self._known.discard(heapq.heappop(self._steps))
        return len(self._steps) < count


class LaneAccount:
    """`wake` has the pump look again whether it can receive."""

    def __init__(
        self, budget: Budget, brake: Brake, dues: Dues, clock: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self.budget = budget
        self.brake = brake
        self.dues = dues
        self.clock = clock
        self.wake = wake
        self.pending = 0
        """Of the events that are held: how many wait for a slot. Written, like `size`, by `HeldEvent`."""
        self.size = 0
        """Bytes of their payloads."""


class HeldEvent:
    """The account of one event, from its lease to `release`. A `holding.Holding`."""

    def __init__(self, lane: LaneAccount, payload_bytes: int) -> None:
        self._lane = lane
        self._begun = lane.clock()
        self._is_pending = True
        self._payload = payload_bytes
        self._more = 0
        lane.pending += 1
        lane.size += payload_bytes
        lane.budget.take(0, payload_bytes)

    def placed(self, placed: bool) -> None:
        if placed is not self._is_pending:
            return
        self._is_pending = not placed
        self._lane.pending += -1 if placed else 1
        if placed:
            self._lane.wake()

    def hold(self, size: int) -> None:
        self._more += size
        self._lane.budget.take(0, size)

    def attempted(self, *, available: bool) -> None:
        if available:
            self._lane.brake.release()
            self._lane.wake()
        else:
            self._lane.brake.pull(self._lane.clock(), self._begun)

    def due_in(self, delay: float) -> None:
        if self._lane.dues.add(delay):
            self._lane.wake()

    def release(self) -> None:
        """Its run has ended."""
        self.placed(True)
        self._lane.size -= self._payload
        self._lane.budget.give(1, self._payload + self._more)
        self._lane.wake()
        self._lane.budget.wake_next()
