"""The demand feed: what every function needs, each second, and at once when one starts to wait."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from kappa_core.demand import Claim, DemandReport, FunctionDemand
from kappa_gateway.state import FunctionState

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
    """`functions` are the gateway's; `name` is the gateway's own."""

    def __init__(self, name: str, functions: Callable[[], Iterable[FunctionState]]) -> None:
        self._name = name
        self._functions = functions
        self.claims: Callable[[], tuple[Claim, ...]] = tuple
        """The pool pods that are claimed and not yet seen as their functions'."""
        self._readers: set[asyncio.Queue[DemandReport | None]] = set()

    async def run(self) -> None:
        """A full report each second, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self._publish(self.full_report())

    def waits(self, function: FunctionState) -> None:
        """A function starts to wait, or to have events in the queue: said at once."""
        if self._readers:
            self._publish(DemandReport(self._name, False, (_demand(function),)))

    def claimed(self, function: FunctionState, claim: Claim) -> None:
        """A pool pod was made the function's: said at once, so that it leaves the pool and the pool is filled again."""
        if self._readers:
            self._publish(DemandReport(self._name, False, (_demand(function),), (claim,)))

    def full_report(self) -> DemandReport:
        """Every function with an invocation in flight or waiting since the last full report, or with events in the queue;
        peaks begin anew."""
        functions = []
        for function in self._functions():
            if function.peak_in_flight or function.waiters or function.backlog:
                functions.append(_demand(function))
                function.peak_in_flight = function.in_flight
        return DemandReport(self._name, True, tuple(functions), self.claims())

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
                _demand(f) for f in self._functions() if f.in_flight or f.peak_in_flight or f.waiters or f.backlog
            )
            yield DemandReport(self._name, True, functions, self.claims())
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


def _demand(function: FunctionState) -> FunctionDemand:
    return FunctionDemand(
        namespace=function.namespace,
        name=function.name,
        in_flight=max(function.peak_in_flight, function.in_flight),
        waiting=len(function.waiters),
        backlog=function.backlog,
        mean_duration=function.mean_duration or _running(function),
        cold_start=function.cold_start,
        pods={name: pod.outstanding for name, pod in function.pods.items() if pod.outstanding},
    )


def _running(function: FunctionState) -> float:
    """Seconds that the first invocation has been running, while none has ended: what is known of their duration. The
    pod's start and the imports of its code are a part of it, so the first `STARTS` are left out."""
    if not function.in_flight or not function.claimable:
        return 0.0
    return max(asyncio.get_running_loop().time() - function.busy_since - STARTS, 0.001)
