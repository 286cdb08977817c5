"""What follows a run of an event: another attempt, or the event's end. Each step is durable and may be repeated.

An event ends in this order: what its destinations get is enqueued, a failed event is dead-lettered, its final record is
saved, and only then it is acked. A gateway that crashes in between leaves an event that is redelivered: without a final
record all of it is done again, with ids that make the repetition harmless; with one it is only acked. While the queue
is away each step waits for it, and the event stays held.

While the queue is full each step waits for room, which only events that end can make. So an event that succeeded is
acked first then, and its record is saved as soon as there is room: a gateway that crashes in between costs the outcome,
no event.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from kappa_core import destinations
from kappa_core.errors import QueueFull
from kappa_core.event import Condition, DeadEvent, Event, GiveUp, Policy, Record, Retry, Status, after_trouble
from kappa_core.invocation_record import Ending
from kappa_gateway import json_check
from kappa_gateway.events.availability import QueueAvailability, Sleep
from kappa_gateway.events.holding import History
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.results import Result
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import EventLease, Queue

logger = logging.getLogger(__name__)

FULL_PATIENCE: Final = 60.0
"""Seconds for which a follow-up event is offered to a full lane; then it is dead-lettered."""
FULL_PAUSE: Final = 2.0
BUG_PAUSE: Final = 60.0
"""Seconds until an event is attempted again whose run ended with a bug of the gateway."""

T = TypeVar("T")


class Settlement:
    """`accept` takes an event in as callers' events are; `clock` gives seconds since the epoch."""

    def __init__(
        self,
        queue: Queue,
        availability: QueueAvailability,
        counts: EventCounts,
        *,
        accept: Callable[[Event], Awaitable[bool]],
        result_max_bytes: int,
        clock: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._availability = availability
        self._counts = counts
        self._accept = accept
        self._result_max_bytes = result_max_bytes
        self._clock = clock
        self._sleep = sleep

    async def settle(
        self, lease: EventLease, function: FunctionState, history: History, result: Result, policy: Policy
    ) -> Retry | None:
        """Do what follows an attempt, durably. A `Retry` says when the event comes again."""
        if result.trouble is None:
            await self._end(lease, function, Condition.SUCCESS, Status.SUCCEEDED, history.attempts + 1, result)
            return None
        verdict = after_trouble(
            result.trouble,
            now=self._clock(),
            received_at=lease.event.received_at,
            attempts=history.attempts,
            postponements=history.postponements,
            policy=policy,
            retry_after=result.retry_after,
        )
        if isinstance(verdict, GiveUp):
            await self._end(lease, function, verdict.condition, verdict.status, verdict.attempts, result)
            return None
        await self._retry(lease, verdict, result)
        return verdict

    async def expire(self, lease: EventLease, function: FunctionState | None, history: History, max_age: float) -> None:
        """The event is older than it may become, and was not attempted again."""
        error = history.error or {
            "errorType": "Kappa.EventAgeExceeded",
            "errorMessage": f"the event was not run within {max_age:g} s of its arrival",
        }
        condition, status = Condition.EVENT_AGE_EXCEEDED, Status.EXPIRED
        await self._end(lease, function, condition, status, history.attempts, Result(error=error))

    async def fail(
        self, lease: EventLease, function: FunctionState | None, history: History, error: dict[str, Any]
    ) -> None:
        """The event cannot be run, now or ever."""
        condition, status = Condition.RETRIES_EXHAUSTED, Status.FAILED
        await self._end(lease, function, condition, status, history.attempts, Result(error=error))

    async def ack(self, lease: EventLease) -> None:
        """The event leaves its lane."""
        await self._availability.until_answered(lambda: self._queue.ack(lease))

    async def nack(self, lease: EventLease, delay: float = 0.0) -> None:
        """The event returns to its lane without an attempt, so its record stays as it is."""
        await self._availability.until_answered(lambda: self._queue.nack(lease, delay))

    async def put_aside(self, lease: EventLease, history: History, max_age: float, bug: Exception) -> float | None:
        """Handle an event whose run failed because of a bug: it is not lost, and not attempted again in a tight loop.
        Returns the seconds until it comes again; None if it was too old, and has ended."""
        if self._clock() <= lease.event.received_at + max_age:
            await self.nack(lease, BUG_PAUSE)
            return BUG_PAUSE
        error = {"errorType": "Kappa.InternalError", "errorMessage": f"the gateway failed: {bug!r}"[:1000]}
        await self.fail(lease, None, history, error)
        return None

    async def dead_letter(self, dead: DeadEvent) -> None:
        await self._with_room(lambda: self._queue.dead_letter(dead))
        self._counts.of(dead.event.lane).dead_lettered(dead.condition)
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

    # -- inside

    async def _retry(self, lease: EventLease, verdict: Retry, result: Result) -> None:
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
            receive_count=lease.receive_count - 1 if result.uncertain else lease.receive_count,
            next_attempt=now + verdict.delay,
            error=result.error,
        )
        await self._with_room(lambda: self._queue.save_record(record))
        await self.nack(lease, verdict.delay)
        self._counts.of(event.lane).retry(result.reason)

    async def _end(
        self,
        lease: EventLease,
        function: FunctionState | None,
        condition: Condition,
        status: Status,
        attempts: int,
        result: Result,
    ) -> None:
        event, now = lease.event, self._clock()
        if function is not None and function.manifest is not None:
            await self._enqueue_for_destinations(event, function, condition, attempts, result, now)
        error = None
        if condition is not Condition.SUCCESS:
            error = result.error or {"errorType": "Kappa.Unknown", "errorMessage": "the event failed"}
            await self.dead_letter(DeadEvent(event, condition, attempts, error, now))
        record = self._final_record(event, status, attempts, result, error, now)
        try:
            await self._availability.until_answered(lambda: self._queue.save_record(record))
        except QueueFull:
            if condition is Condition.SUCCESS:
                await self.ack(lease)
                await self._with_room(lambda: self._queue.save_record(record))
            else:
                await self._with_room(lambda: self._queue.save_record(record))
                await self.ack(lease)
        else:
            await self.ack(lease)
        self._counts.of(event.lane).end(status)

    def _final_record(
        self, event: Event, status: Status, attempts: int, result: Result, error: dict[str, Any] | None, now: float
    ) -> Record:
        text, truncated = None, False
        if error is None and result.response is not None:
            limit = self._result_max_bytes
            truncated = result.response_size > limit
            text = result.response[:limit].decode("utf-8", "replace")
            if truncated:
                # a character that the limit cuts in two is left out
                text = text.removesuffix("\ufffd")
        return Record(
            event.lane.namespace,
            event.lane.function,
            event.id,
            status,
            received_at=event.received_at,
            updated_at=now,
            attempts=attempts,
            result=text,
            result_truncated=truncated,
            error=error,
        )

    async def _enqueue_for_destinations(
        self, event: Event, function: FunctionState, condition: Condition, attempts: int, result: Result, now: float
    ) -> None:
        assert function.manifest is not None
        wanted = function.manifest.spec.async_
        if wanted.on_success is None and wanted.on_failure is None and wanted.dead_letter is None:
            return
        ending = Ending(
            condition=condition,
            attempts=attempts,
            ended_at=now,
            response=result.response,
            response_size=result.response_size,
            function_error=result.function_error,
            status_code=result.status_code,
        )
        follow_ups = destinations.follow_ups(
            function.manifest,
            event,
            ending,
            arn=function.arn,
            max_bytes=self._queue.max_event_bytes,
            request_is_json=json_check.is_json(event.payload),
            response_is_json=None if result.response is None else json_check.is_json(result.response),
        )
        for follower in follow_ups.events:
            await self._enqueue_follower(follower, now)
        for dead in follow_ups.cut:
            await self.dead_letter(dead)

    async def _enqueue_follower(self, follower: Event, now: float) -> None:
        waited = 0.0
        while True:
            try:
                await self._availability.until_answered(lambda: self._accept(follower))
                return
            except QueueFull as full:
                if waited >= FULL_PATIENCE:
                    error = {"errorType": "Kappa.QueueFull", "errorMessage": full.message}
                    await self.dead_letter(DeadEvent(follower, Condition.RETRIES_EXHAUSTED, 0, error, now))
                    return
            waited += FULL_PAUSE
            await self._sleep(FULL_PAUSE)

    async def _with_room(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of `step`, which may be repeated, once the queue has room for it."""
        logged = False
        while True:
            try:
                return await self._availability.until_answered(step)
            except QueueFull as error:
                if not logged:
                    logged = True
                    logger.warning("an event stays held until there is room: %s", error.message)
            await self._sleep(FULL_PAUSE)
