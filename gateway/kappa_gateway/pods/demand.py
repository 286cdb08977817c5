"""The demand feed: what every function needs. It reports each second, and at once when a function's requests begin to
wait."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from kappa_core.demand import Claim, DemandReport, FunctionDemand
from kappa_gateway.pods.state import FunctionState

logger = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between full reports."""
BACKLOG: Final = 32
"""Reports that a reader may be behind; a slower one is dropped, and connects again."""
MAX_READERS: Final = 64
STARTS: Final = 0.25
"""Seconds that a start from a pool may take before the function runs."""


class Overrun(Exception):
    """The reader did not keep up, or there are too many."""


class DemandFeed:
    """`name` is this gateway's. `backlog(function)` gives how many of the function's events wait in the queue,
    `claims()` what to report about claimed pool pods. `clock`: seconds, monotonic."""

    def __init__(
        self,
        name: str,
        functions: Iterable[FunctionState],
        *,
        backlog: Callable[[FunctionState], int],
        claims: Callable[[], tuple[Claim, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._functions = functions
        self._backlog = backlog
        self._claims = claims
        self._clock = clock
        self._readers: set[asyncio.Queue[DemandReport | None]] = set()

    async def run(self, take_peak: Callable[[FunctionState], int]) -> None:
        """A full report each second, until cancelled. `take_peak` gives a function's peak and begins the next one."""
        while True:
            await asyncio.sleep(INTERVAL)
            self._publish(self.full_report(take_peak))

    def waits(self, function: FunctionState) -> None:
        """Requests of a function begin to wait, or it has events in the queue: reported at once."""
        if self._readers:
            self._publish(DemandReport(self._name, False, (self._demand(function),)))

    def claimed(self, function: FunctionState, claim: Claim) -> None:
        """A pool pod was claimed: reported at once, so that it leaves the pool and the pool is filled up again."""
        if self._readers:
            self._publish(DemandReport(self._name, False, (self._demand(function),), (claim,)))

    def full_report(self, take_peak: Callable[[FunctionState], int]) -> DemandReport:
        """All functions that had an invocation in flight or waiting since the last full report, or that have events in
        the queue."""
        functions = []
        for function in self._functions:
            if function.peak_in_flight or function.waiters or self._backlog(function):
                functions.append(self._demand(function))
                take_peak(function)
        return DemandReport(self._name, True, tuple(functions), self._claims())

    async def subscribe(self) -> AsyncIterator[DemandReport]:
        """Reports from now on; the first comes at once and says who waits now. Ends when the feed is closed.

        Raises `Overrun` when the reader is more than `BACKLOG` reports behind.
        """
        if len(self._readers) >= MAX_READERS:
            raise Overrun(f"{MAX_READERS} readers follow the demand stream already")
        queue: asyncio.Queue[DemandReport | None] = asyncio.Queue(BACKLOG)
        self._readers.add(queue)
        try:
            functions = tuple(
                self._demand(function)
                for function in self._functions
                if function.in_flight or function.peak_in_flight or function.waiters or self._backlog(function)
            )
            yield DemandReport(self._name, True, functions, self._claims())
            while queue in self._readers or not queue.empty():
                report = await queue.get()
                if report is None:
                    return
                yield report
            raise Overrun(f"more than {BACKLOG} reports behind")
        finally:
            self._readers.discard(queue)

    def close(self) -> None:
        for queue in self._readers:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)

    def _publish(self, report: DemandReport) -> None:
        for queue in list(self._readers):
            try:
                queue.put_nowait(report)
            except asyncio.QueueFull:
                logger.warning("a reader of the demand stream is too slow and is dropped")
                self._readers.discard(queue)

    def _demand(self, function: FunctionState) -> FunctionDemand:
        return FunctionDemand(
            namespace=function.namespace,
            name=function.name,
            in_flight=max(function.peak_in_flight, function.in_flight),
            waiting=len(function.waiters),
            backlog=self._backlog(function),
            mean_duration=function.mean_duration or self._running(function),
            cold_start=function.cold_start,
            pods={name: pod.outstanding for name, pod in function.pods.items() if pod.outstanding},
        )

    def _running(self, function: FunctionState) -> float:
        """Seconds that the first invocation has been running, while none has ended: the only estimate of their duration
        until then. It includes the pod's start and the imports of its code, so the first `STARTS` seconds are left
        out."""
        if not function.in_flight or not function.is_pool_eligible:
            return 0.0
        return max(self._clock() - function.busy_since - STARTS, 0.001)
