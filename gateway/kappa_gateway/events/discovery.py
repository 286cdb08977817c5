"""What the queue holds, looked at every few seconds: who has work, what it means for demand, and what may be forgotten.

Events that this gateway accepts are known at once; this finds those of gateways that died, retries that are due and what
was there before. When a function is deleted, its events stay: if it is applied again within their time, they run. What
grows older than the longest `maxAge` meanwhile goes to the dead letter, and a lane that has been empty for an hour is
dropped. Deliveries go on without their function. `kappa async purge` drops events sooner.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kappa_core.durations import parse_duration
from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.queue.protocol import LaneState

if TYPE_CHECKING:
    from kappa_gateway.events.service import Events

logger = logging.getLogger(__name__)

DISCOVERY_INTERVAL: Final = 2.0
"""Seconds."""
ABANDONED_AFTER: Final = parse_duration("6h")
"""Seconds: the longest `maxAge`, for events whose function is not there to say its own."""
IDLE_LANE_KEPT: Final = 3600.0
"""Seconds for which an empty lane without a function stays. Long, because another gateway may know of a new function of
that name a moment before this one does, and have put an event there."""


class Discovery:
    def __init__(self, events: "Events") -> None:
        self._events = events
        self._idle_since: dict[Lane, float] = {}
        """Empty lanes without a function, and since when they are seen to be so."""

    async def run(self) -> None:
        """Until cancelled."""
        await self._events.gateway.registry.synced.wait()
        while True:
            try:
                self._take_in(await self._events.queue.lanes())
                await self._drop_lanes()
                self._events.outage.over()
            except QueueUnavailable as error:
                self._events.outage.seen(error)
                self._forget_backlogs()
            except Exception:
                logger.exception("a bug in looking at the lanes of events")
            await asyncio.sleep(DISCOVERY_INTERVAL)

    def _take_in(self, states: Sequence[LaneState]) -> None:
        """What the queue holds: wake who has work, and tell demand and metrics."""
        self._forget_backlogs()
        now = self._events.clock()
        idle: set[Lane] = set()
        for state in states:
            lane = state.lane
            if not self._events.serves(lane):
                continue
            function = self._events.gateway.registry.get(lane.namespace, lane.function)
            if lane.kind is Kind.INVOCATION:
                counted = self._events.metrics_of_lane(lane)
                counted.waiting, counted.held, counted.oldest_at = state.waiting, state.held, state.oldest_at
            abandoned = False
            if not state.waiting and not state.held:
                if function is None:
                    idle.add(lane)
                continue
            if lane.kind is Kind.INVOCATION:
                if function is not None:
                    function.backlog = state.waiting
                elif state.oldest_at is not None and now <= state.oldest_at + ABANDONED_AFTER:
                    continue  # it may be applied again
                else:
                    abandoned = True
            known = self._events.pumps.get(lane)
            if state.waiting or state.held > (len(known.in_hand) if known is not None else 0):
                self._events.notify(lane, abandoned=abandoned)
        self._idle_since = {lane: self._idle_since.get(lane, self._events.monotonic()) for lane in idle}
        self._forget_metrics({(state.lane.namespace, state.lane.function) for state in states})

    async def _drop_lanes(self) -> None:
        """Lanes without events whose function has been gone for long."""
        for lane, since in list(self._idle_since.items()):
            if self._events.monotonic() - since > IDLE_LANE_KEPT:
                del self._idle_since[lane]
                await self._events.queue.drop_lane(lane)
                logger.info("the queue of a function that is gone was dropped", extra={"lane": str(lane)})

    def _forget_backlogs(self) -> None:
        for function in self._events.gateway.registry:
            function.backlog = 0
        for counted in self._events.metrics.values():
            counted.waiting = counted.held = 0
            counted.oldest_at = None

    def _forget_metrics(self, lanes: set[tuple[str, str]]) -> None:
        for key in [
            key for key in self._events.metrics if key not in lanes and self._events.gateway.registry.get(*key) is None
        ]:
            del self._events.metrics[key]
