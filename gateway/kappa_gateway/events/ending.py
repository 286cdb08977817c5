"""What follows a try: another one, or the event's end. Each step is durable and may be repeated.

An event ends in this order: what its destinations hear of is put into the queue, a failed one is buried in the dead
letter, its final record is saved, and only then it leaves its lane. Whoever dies in between leaves an event that is
handed out again: without a final record all of it is done again, with ids that make the repetition harmless; with one
it just leaves. While the queue is away each step waits for it, and the event stays in hand.

While the queue is full each step waits for room, which only events that end can make. So what succeeded leaves its lane
first then, and its record is saved as soon as there is room: a gateway that dies in between costs the outcome, no event.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kappa_core import destinations
from kappa_core.errors import QueueFull
from kappa_core.event import Condition, DeadEvent, Event, GiveUp, Policy, Record, Retry, Status, after_trouble
from kappa_core.invocation_record import Ending
from kappa_gateway import json_check
from kappa_gateway.events.metrics import EventMetrics
from kappa_gateway.events.outage import Outage
from kappa_gateway.events.tries import Tried
from kappa_gateway.queue.protocol import EventLease, Queue
from kappa_gateway.settings import Settings
from kappa_gateway.state import FunctionState

logger = logging.getLogger(__name__)

FULL_PATIENCE: Final = 60.0
"""Seconds for which a destination's lane that is full is tried again; then what was to go there is buried."""
FULL_PAUSE: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Before:
    """An event's history, from its record."""

    attempts: int = 0
    postponements: int = 0
    error: dict[str, Any] | None = None


class Endings:
    """`put` is the gateway's own way to accept an event; `metrics_of` gives a lane's counts; `clock` seconds since the epoch."""

    def __init__(
        self,
        queue: Queue,
        outage: Outage,
        settings: Settings,
        *,
        put: Callable[[Event], Awaitable[bool]],
        metrics_of: Callable[[Event], EventMetrics],
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._outage = outage
        self._settings = settings
        self._put = put
        self._metrics_of = metrics_of
        self._clock = clock

    async def see_to(
        self, lease: EventLease, function: FunctionState, before: Before, tried: Tried, policy: Policy
    ) -> Retry | None:
        """Do what follows a try; returns when its effects are durable. A `Retry` says when the event comes again."""
        if tried.trouble is None:
            await self._end(lease, function, Condition.SUCCESS, Status.SUCCEEDED, before.attempts + 1, tried)
            return None
        verdict = after_trouble(
            tried.trouble,
            now=self._clock(),
            received_at=lease.event.received_at,
            attempts=before.attempts,
            postponements=before.postponements,
            policy=policy,
            retry_after=tried.retry_after,
        )
        if isinstance(verdict, GiveUp):
            await self._end(lease, function, verdict.condition, verdict.status, verdict.attempts, tried)
            return None
        await self._again(lease, verdict, tried)
        return verdict

    async def expire(self, lease: EventLease, function: FunctionState | None, before: Before, max_age: float) -> None:
        """The event is older than it may become, and was not tried again."""
        error = before.error or {
            "errorType": "Kappa.EventAgeExceeded",
            "errorMessage": f"the event was not run within {max_age:g} s of its arrival",
        }
        await self._end(
            lease, function, Condition.EVENT_AGE_EXCEEDED, Status.EXPIRED, before.attempts, Tried(error=error)
        )

    async def refuse(
        self, lease: EventLease, function: FunctionState | None, before: Before, error: dict[str, Any]
    ) -> None:
        """The event cannot be run, now or ever."""
        await self._end(
            lease, function, Condition.RETRIES_EXHAUSTED, Status.FAILED, before.attempts, Tried(error=error)
        )

    async def leave(self, lease: EventLease) -> None:
        """The event was seen to before: by another gateway, or before a death."""
        await self._outage.through(lambda: self._queue.ack(lease))

    async def give_back(self, lease: EventLease, delay: float = 0.0) -> None:
        """Untried, so without a word in its record."""
        await self._outage.through(lambda: self._queue.nack(lease, delay))

    # -- inside

    async def _again(self, lease: EventLease, verdict: Retry, tried: Tried) -> None:
        event, now = lease.event, self._clock()
        record = Record(
            event.lane.namespace,
            event.lane.function,
            event.id,
            Status.RETRYING,
            received_at=event.received_at,
            updated_at=now,
            attempts=verdict.attempts,
            postponements=verdict.postponements,
            # one less says: it is not certain that it does not run
            receive_count=lease.receive_count - 1 if tried.uncertain else lease.receive_count,
            next_attempt=now + verdict.delay,
            error=tried.error,
        )
        await self._with_room(lambda: self._queue.save_record(record))
        await self._outage.through(lambda: self._queue.nack(lease, verdict.delay))
        self._metrics_of(event).retry(tried.reason)

    async def _end(
        self,
        lease: EventLease,
        function: FunctionState | None,
        condition: Condition,
        status: Status,
        attempts: int,
        tried: Tried,
    ) -> None:
        event, now = lease.event, self._clock()
        if function is not None and function.function is not None:
            await self._tell_destinations(event, function, condition, attempts, tried, now)
        error = None
        if condition is not Condition.SUCCESS:
            error = tried.error or {"errorType": "Kappa.Unknown", "errorMessage": "the event failed"}
            await self.bury(DeadEvent(event, condition, attempts, error, now))
        record = self._final(event, status, attempts, tried, error, now)
        try:
            await self._outage.through(lambda: self._queue.save_record(record))
        except QueueFull:
            if condition is Condition.SUCCESS:
                await self.leave(lease)
                await self._with_room(lambda: self._queue.save_record(record))
            else:
                await self._with_room(lambda: self._queue.save_record(record))
                await self.leave(lease)
        else:
            await self.leave(lease)
        self._metrics_of(event).end(status)

    def _final(
        self, event: Event, status: Status, attempts: int, tried: Tried, error: dict[str, Any] | None, now: float
    ) -> Record:
        result, truncated = None, False
        if error is None and tried.response is not None:
            limit = self._settings.result_max_bytes
            truncated = tried.response_size > limit
            # what the limit cuts in two is left out; what was no text to begin with is shown as such
            cut = tried.response[:limit]
            result = (
                cut.decode("utf-8", "replace").removesuffix("\ufffd") if truncated else cut.decode("utf-8", "replace")
            )
        return Record(
            event.lane.namespace,
            event.lane.function,
            event.id,
            status,
            received_at=event.received_at,
            updated_at=now,
            attempts=attempts,
            result=result,
            result_truncated=truncated,
            error=error,
        )

    async def _tell_destinations(
        self, event: Event, function: FunctionState, condition: Condition, attempts: int, tried: Tried, now: float
    ) -> None:
        assert function.function is not None
        wanted = function.function.spec.async_
        if wanted.on_success is None and wanted.on_failure is None and wanted.dead_letter is None:
            return
        ending = Ending(
            condition=condition,
            attempts=attempts,
            ended_at=now,
            response=tried.response,
            response_size=tried.response_size,
            function_error=tried.function_error,
            status_code=tried.status_code,
        )
        follow_ups = destinations.follow_ups(
            function.function,
            event,
            ending,
            arn=function.arn,
            max_bytes=self._queue.max_event_bytes,
            request_is_json=_is_json(event.payload),
            response_is_json=_is_json(tried.response),
        )
        for follower in follow_ups.events:
            await self._put_follower(follower, now)
        for dead in follow_ups.cut:
            await self.bury(dead)

    async def _put_follower(self, follower: Event, now: float) -> None:
        waited = 0.0
        while True:
            try:
                await self._outage.through(lambda: self._put(follower))
            except QueueFull as error:
                if waited >= FULL_PATIENCE:
                    told = {"errorType": "Kappa.QueueFull", "errorMessage": error.message}
                    await self.bury(DeadEvent(follower, Condition.RETRIES_EXHAUSTED, 0, told, now))
                    return
                waited += FULL_PAUSE
                await asyncio.sleep(FULL_PAUSE)
            else:
                return

    async def _with_room(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of `step`, which may be repeated, once the queue has room for it."""
        told = False
        while True:
            try:
                return await self._outage.through(step)
            except QueueFull as error:
                if not told:
                    told = True
                    logger.warning("an event stays in hand until there is room: %s", error.message)
            await asyncio.sleep(FULL_PAUSE)

    async def bury(self, dead: DeadEvent) -> None:
        await self._with_room(lambda: self._queue.dead_letter(dead))
        self._metrics_of(dead.event).bury(dead.condition)
        logger.info(
            "an event went to the dead letter",
            extra={
                "function": f"{dead.event.lane.namespace}/{dead.event.lane.function}",
                "request_id": dead.event.id,
                "kind": dead.event.lane.kind.value,
                "condition": dead.condition.value,
                "error": str(dead.error.get("errorMessage", ""))[:500],
            },
        )


def _is_json(payload: bytes | None) -> bool | None:
    return None if payload is None else json_check.is_json(payload)
