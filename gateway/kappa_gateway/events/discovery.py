"""What the queue holds, looked at every few seconds: which lanes have work, what that demands, what may be dropped.

Events that this gateway accepts are known at once. This finds those of gateways that crashed, retries that are due, and
what was there before. When a function is deleted, its events stay: if it is applied again within their time, they run.
What grows older than the longest `maxAge` meanwhile is dead-lettered, and a lane that has been empty for an hour is
dropped. Deliveries go on without their function. `kappa async purge` drops events sooner.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.lanes import Lanes
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.policies import ABANDONED_AFTER
from kappa_gateway.pods.functions import Functions
from kappa_gateway.queue.protocol import LaneState, Queue

logger = logging.getLogger(__name__)

DISCOVERY_INTERVAL: Final = 2.0
"""Seconds."""
IDLE_LANE_KEPT: Final = 3600.0
"""Seconds for which an empty lane without a function stays. Long, because another gateway may know of a new function of
that name a moment before this one does, and have put an event there."""


class Discovery:
    """`clock` gives seconds since the epoch, `monotonic` seconds of a monotonic clock."""

    def __init__(
        self,
        queue: Queue,
        availability: QueueAvailability,
        functions: Functions,
        lanes: Lanes,
        backlog: Backlog,
        counts: EventCounts,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._availability = availability
        self._functions = functions
        self._lanes = lanes
        self._backlog = backlog
        self._counts = counts
        self._clock = clock
        self._monotonic = monotonic
        self._idle_since: dict[Lane, float] = {}
        """Empty lanes without a function, and since when they are known to be empty."""

    async def run(self) -> None:
        """Until cancelled."""
        await self._functions.synced.wait()
        while True:
            await self.look()
            await asyncio.sleep(DISCOVERY_INTERVAL)

    async def look(self) -> None:
        """Once."""
        try:
            self._take_in(await self._queue.lanes())
            await self._drop_lanes()
            self._availability.answered()
        except QueueUnavailable as error:
            self._availability.failed(error)
            self._backlog.replace({})
            self._counts.replace_lanes(())
        except Exception:
            logger.exception("a bug in looking at the lanes of events")

    # -- inside

    def _take_in(self, states: Sequence[LaneState]) -> None:
        served = [state for state in states if self._lanes.serves(state.lane)]
        invocations = [state for state in served if state.lane.kind is Kind.INVOCATION]
        self._backlog.replace(
            {
                (state.lane.namespace, state.lane.function): state.waiting
                for state in invocations
                if self._has_function(state.lane)
            }
        )
        self._counts.replace_lanes(invocations)
        for state in served:
            if state.waiting or state.held:
                self._notify(state)
        idle = [
            state.lane
            for state in served
            if not state.waiting and not state.held and not self._has_function(state.lane)
        ]
        self._idle_since = {lane: self._idle_since.get(lane, self._monotonic()) for lane in idle}
        self._discard_counts({(state.lane.namespace, state.lane.function) for state in states})

    def _notify(self, state: LaneState) -> None:
        """Wake the lane if there is more in it than this gateway holds."""
        lane, abandoned = state.lane, False
        if lane.kind is Kind.INVOCATION and not self._has_function(lane):
            if state.oldest_at is not None and self._clock() <= state.oldest_at + ABANDONED_AFTER:
                return  # its function may be applied again
            abandoned = True
        if state.waiting or state.held > self._lanes.held(lane):
            self._lanes.notify(lane, abandoned=abandoned)

    def _has_function(self, lane: Lane) -> bool:
        return self._functions.get(lane.namespace, lane.function) is not None

    async def _drop_lanes(self) -> None:
        """Lanes without events whose function was deleted long ago."""
        for lane, since in list(self._idle_since.items()):
            if self._monotonic() - since > IDLE_LANE_KEPT:
                del self._idle_since[lane]
                await self._queue.drop_lane(lane)
                logger.info("the queue of a deleted function was dropped", extra={"lane": str(lane)})

    def _discard_counts(self, lanes: set[tuple[str, str]]) -> None:
        for key in list(self._counts.functions):
            if key not in lanes and self._functions.get(*key) is None:
                self._counts.discard(*key)
