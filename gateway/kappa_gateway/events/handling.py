"""One event in this gateway's hand, from its lease to what followed: run or delivered, and seen to."""

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kappa_core.errors import FunctionNotFound, KappaError, QueueUnavailable
from kappa_core.event import Kind, Policy, Record, Status, Trouble, expired
from kappa_core.metrics import Outcome
from kappa_gateway.events import kept
from kappa_gateway.events.attempt import Attempt, LeaseGone, judge_lambda, lambda_call, web_call
from kappa_gateway.events.delivery import deliver
from kappa_gateway.events.ending import Before
from kappa_gateway.events.kept import KeptAnswer
from kappa_gateway.events.tries import MAX_ERROR_BYTES, Tried, Unreadable
from kappa_gateway.exchange import ClientGone
from kappa_gateway.queue.protocol import EventLease
from kappa_gateway.state import FunctionState

if TYPE_CHECKING:
    from kappa_gateway.events.pump import Pump
    from kappa_gateway.events.service import Events

logger = logging.getLogger(__name__)

RUNNING_AFTER: Final = 1.0
"""Seconds after which an event that runs is recorded as running: short runs are spared the write."""
BUG_PAUSE: Final = 60.0
"""Seconds until an event is tried again over which this gateway stumbled."""


class SeenTo(Exception):
    """Somebody whose lease ran out has seen to the try all the same; the record says what follows."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        """Seconds until what follows."""


class Handling:
    """`run` it in a task of its own; `withdraw` ends its wait for a pod.

    `earlier`: this gateway's own handling of the same event, on a lease that ran out while the gateway stood still.
    """

    __slots__ = (
        "_answer",
        "_attempt",
        "_earlier",
        "_events",
        "_function",
        "_is_pending",
        "_pump",
        "_running",
        "_size",
        "_timer",
        "before",
        "begun",
        "lease",
        "withdrawn",
    )

    def __init__(
        self, events: "Events", pump: "Pump", lease: EventLease, earlier: asyncio.Task[None] | None = None
    ) -> None:
        self._events = events
        self._earlier = earlier
        self._pump = pump
        self.lease = lease
        self.before = Before()
        self.begun = events.monotonic()
        self.withdrawn = False
        self._function: FunctionState | None = None
        self._attempt: Attempt | None = None
        self._answer: KeptAnswer | None = None
        self._is_pending = True
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0

    async def run(self) -> None:
        """Never raises but `CancelledError`: then nothing was seen to, and the lease runs out."""
        try:
            if self._earlier is not None:
                # it may be on its way to a pod, which cannot know of it yet
                await asyncio.wait({self._earlier})
                self._earlier = None
            if self.lease.event.lane.kind is Kind.DELIVERY:
                await deliver(self._events, self.lease)
            else:
                await self._see_through()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.exception("a bug stopped an event", extra={"request_id": self.lease.event.id})
            await self._put_aside(error)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._running is not None:
                self._running.cancel()
            if self._attempt is not None:
                self._attempt.abandon()
            if self._answer is not None:
                self._answer.abandon()
            self._place(True)
            self._events.budget.give(0, self._size)

    def withdraw(self) -> None:
        """Wait for a pod no longer; what runs, runs on."""
        self.withdrawn = True
        if self._attempt is not None:
            self._attempt.withdraw()

    # -- an invocation

    async def _see_through(self) -> None:
        events, event = self._events, self.lease.event
        ask = False
        if not self.lease.fresh:
            record = await self._record()
            if record is not None and record.status.final:
                await events.endings.leave(self.lease)
                return
            if record is not None:
                self.before = Before(record.attempts, record.postponements, record.error)
            ask = self._may_have_been_tried(record)
        function = self._function = events.gateway.registry.get(event.lane.namespace, event.lane.function)
        policy = events.policy(function)
        if expired(now=events.clock(), received_at=event.received_at, policy=policy):
            await events.endings.expire(self.lease, function, self.before, policy.max_age)
            return
        if function is None:
            await self._wait_for_function(policy)
            return
        try:
            tried = await self._try(function, ask)
        except Unreadable as error:
            told = {"errorType": "Kappa.UnreadableEvent", "errorMessage": f"the event cannot be run: {error}"}
            await events.endings.refuse(self.lease, function, self.before, told)
            return
        except SeenTo as seen:
            await events.endings.give_back(self.lease, seen.delay)
            self._pump.due_in(seen.delay)
            return
        except LeaseGone:
            logger.info("an event was left to whoever has it now", extra={"request_id": event.id})
            return
        except ClientGone:
            await events.endings.give_back(self.lease)
            return
        except FunctionNotFound:
            await self._wait_for_function(policy)
            return
        self._pump.tried(tried, self.begun)
        self._hold(len(tried.response or b""))
        await self._running_noted()
        again = await events.endings.see_to(self.lease, function, self.before, tried, policy)
        if again is not None:
            self._pump.due_in(again.delay)
        if not tried.uncertain:
            if self._attempt is not None:
                self._attempt.seen_to()
            if self._answer is not None:
                self._answer.seen_to()

    def _may_have_been_tried(self, record: Record | None) -> bool:
        """Whether a try may have begun of which the record says nothing."""
        if not self.lease.counted:
            # Such as NATS' after its sudden death: it hands out for the first time what a gateway had in hand.
            return True
        nobody_since = (
            record is not None
            and record.status is Status.RETRYING
            and record.receive_count == self.lease.receive_count - 1
        )
        return self.lease.receive_count > 1 and not nobody_since

    def _may_begin(self) -> bool:
        return self._events.queue.may_attempt(self.lease)

    async def _record(self) -> Record | None:
        event = self.lease.event
        lane = event.lane
        record = await self._events.outage.through(
            lambda: self._events.queue.record(lane.namespace, lane.function, event.id)
        )
        if record is not None and record.received_at < event.received_at - 0.001:
            # The same key was sent again, long after: that record is the earlier event's. The queue keeps it if it is
            # final, so the tries of this one are known by the hand-outs alone.
            return replace(
                record, status=Status.RUNNING, attempts=self.lease.receive_count - 1, postponements=0, error=None
            )
        return record

    async def _try(self, function: FunctionState, ask: bool) -> Tried:
        number = self.before.attempts + 1
        is_lambda = function.protocol == "lambda"
        if ask and is_lambda:
            if (tried := await self._kept(function, number)) is not None:
                return tried
            await self._look_again(number)
        event = self.lease.event
        call = lambda_call(event, number) if is_lambda else web_call(event)
        attempt = self._attempt = Attempt(self._events.gateway, function, event, number, self._place, self._may_begin)
        if self.withdrawn:
            attempt.withdraw()
        tried = await attempt.run(call, self._worth_keeping(function))
        if tried.uncertain:
            if (found := await self._kept(function, number)) is not None:
                return found
            if not self._may_begin():
                # whoever has it now may have found the answer and seen to it: what is known here is out of date
                raise LeaseGone
        return tried

    async def _look_again(self, number: int) -> None:
        """No pod keeps the answer to this try: nobody runs it, or it was seen to since the record was read, as what follows
        is recorded before a pod may forget. Raises `SeenTo`."""
        record = await self._record()
        if record is not None and (record.status.final or record.attempts >= number):
            raise SeenTo(max(record.next_attempt - self._events.clock(), 0.0) if record.next_attempt else 0.0)

    async def _kept(self, function: FunctionState, number: int) -> Tried | None:
        """What became of an attempt whose answer nobody saw; None: nobody knows of it."""
        self._place(True)  # it needs no slot
        try:
            answer = await kept.find(self._events.gateway, function, self.lease.event.id, number)
        except KappaError as error:
            told = {"errorType": error.error_type, "errorMessage": error.message}
            return Tried(Trouble.UNAVAILABLE, Outcome.TIMEOUT, error=told, uncertain=True)
        if answer is None:
            self._place(False)
            return None
        self._answer = answer
        logger.info("an answer was found that nobody had seen to", extra={"request_id": self.lease.event.id})
        keep = self._worth_keeping(function)
        return judge_lambda(answer.status, answer.headers, answer.body[:keep], len(answer.body))

    def _worth_keeping(self, function: FunctionState) -> int:
        """How many bytes of an answer somebody may want to see."""
        settings = self._events.gateway.settings
        wanted = function.function.spec.async_ if function.function is not None else None
        if wanted is None or not (wanted.on_success or wanted.on_failure or wanted.dead_letter):
            return max(settings.result_max_bytes, MAX_ERROR_BYTES)
        return settings.max_response_bytes

    async def _wait_for_function(self, policy: Policy) -> None:
        """It may be applied again; until the event is too old it stays."""
        await self._events.endings.give_back(self.lease, policy.longest_backoff)

    async def _put_aside(self, error: Exception) -> None:
        """So that a bug costs neither the event nor all of the gateway's time."""
        events = self._events
        told = {"errorType": "Kappa.InternalError", "errorMessage": f"the gateway failed: {error!r}"[:1000]}
        try:
            if events.clock() <= self.lease.event.received_at + events.policy(self._function).max_age:
                await events.endings.give_back(self.lease, BUG_PAUSE)
                self._pump.due_in(BUG_PAUSE)
            else:
                await events.endings.refuse(self.lease, None, self.before, told)
        except Exception:
            # then its lease runs out
            logger.exception("an event could not be put aside either", extra={"request_id": self.lease.event.id})

    # -- what others see of it

    def _place(self, placed: bool) -> None:
        """It has what it waited for (a slot, or no need of one), or waits (again)."""
        if placed is self._is_pending:
            self._is_pending = not placed
            self._pump.placed(placed)
        at_pod = placed and self._attempt is not None and self._attempt.pod is not None
        self._events.note_running(self.lease.event.id, at_pod)
        if at_pod and self._timer is None:
            if not self.before.attempts and not self.before.postponements:
                age = max(self._events.clock() - self.lease.event.received_at, 0.0)
                self._events.metrics_of(self.lease.event).age.observe(age)
            self._timer = self._events.gateway.loop.call_later(RUNNING_AFTER, self._note_running)

    def _note_running(self) -> None:
        self._running = self._events.gateway.loop.create_task(self._save_running(), name="event runs")

    async def _save_running(self) -> None:
        """For those who ask only, so it is not tried again."""
        event = self.lease.event
        record = Record(
            event.lane.namespace,
            event.lane.function,
            event.id,
            Status.RUNNING,
            received_at=event.received_at,
            updated_at=self._events.clock(),
            attempts=self.before.attempts,
            postponements=self.before.postponements,
            receive_count=self.lease.receive_count,
            error=self.before.error,
        )
        try:
            await self._events.queue.save_record(record)
        except QueueUnavailable as error:
            self._events.outage.seen(error)
        except KappaError as error:
            logger.warning("it could not be recorded that an event runs: %s", error.message)

    async def _running_noted(self) -> None:
        """The record that it runs must not come after the one that says how it went."""
        if self._timer is not None:
            self._timer.cancel()
        running, self._running = self._running, None
        if running is not None:
            await asyncio.gather(running, return_exceptions=True)

    def _hold(self, size: int) -> None:
        self._events.budget.take(0, size)
        self._size += size
