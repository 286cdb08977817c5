"""The path of an asynchronous invocation, from top to bottom, from its lease until it is settled.

| step | here | what may end it there |
| --- | --- | --- |
| received | `pump` made this run for the event, and its lease is extended while the run lasts | |
| record looked up | `_look_up`; not for an event that is certain to be new | it has ended: acked |
| checked | `_come_to_outcome` | too old: ended as expired; no such function: nacked |
| kept answer asked for | `_kept_answer`, where an attempt may have begun unrecorded | settled elsewhere: nacked |
| attempted | `_attempt`: an invocation, its answer judged | withdrawn: nacked; lease lost: left alone |
| settled | `_settle` does what follows: the one place that matches every outcome | |

An attempt that succeeded, or was the last, is acked after its destinations, dead letter and record (`settlement`). Any
other is nacked until the next one is due. Deliveries are handled by `delivery`.
"""

import logging
from collections.abc import Callable
from typing import assert_never

from kappa_core.errors import KappaError
from kappa_core.event import Policy, Record, Trouble, expired
from kappa_core.metrics import Outcome
from kappa_gateway.events.attempt import Attempt, Attempts, LeasedPlace
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.holding import History, Holding
from kappa_gateway.events.kept_answers import HeldAnswer, KeptAnswers
from kappa_gateway.events.pod_requests import UnreadableEvent, lambda_request, web_request
from kappa_gateway.events.policies import Policies
from kappa_gateway.events.records import history_of, look_up, may_have_been_attempted
from kappa_gateway.events.results import (
    AlreadyEnded,
    Expired,
    LeaseLost,
    NoFunction,
    NotBegun,
    Result,
    RunOutcome,
    SettledElsewhere,
    Unreadable,
    Withdrawn,
)
from kappa_gateway.events.running import RunningEvents, RunningMark
from kappa_gateway.events.settlement import Settlement
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import EventLease, Queue

logger = logging.getLogger(__name__)


class EventRunner:
    """What the runs of all events share. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        queue: Queue,
        availability: QueueAvailability,
        functions: Functions,
        *,
        policies: Policies,
        kept_answers: KeptAnswers,
        attempts: Attempts,
        settlement: Settlement,
        running: RunningEvents,
        clock: Callable[[], float],
    ) -> None:
        self.queue = queue
        self.availability = availability
        self.functions = functions
        self.policies = policies
        self.kept_answers = kept_answers
        self.attempts = attempts
        self.settlement = settlement
        self.running = running
        self.clock = clock

    def make(self, holding: Holding, lease: EventLease) -> "EventRun":
        return EventRun(self, holding, lease)


class EventRun:
    """`run` it in a task of its own; `withdraw` ends its wait for a slot."""

    def __init__(self, runner: EventRunner, holding: Holding, lease: EventLease) -> None:
        self.lease = lease
        self.history = History()
        self._runner = runner
        self._holding = holding
        self._withdrawn = False
        self._attempt_made: Attempt | None = None
        self._found: HeldAnswer | None = None
        """An answer that an agent kept."""
        self._mark = RunningMark(runner.running, lease)

    async def run(self) -> None:
        lane = self.lease.event.lane
        try:
            record = None if self.lease.fresh else await self._look_up()
            function = self._runner.functions.get(lane.namespace, lane.function)
            policy = self._runner.policies.of(function)
            outcome = await self._come_to_outcome(record, function, policy)
            await self._settle(outcome, function, policy)
        finally:
            self._mark.close()
            for held in self._held_answers():
                held.abandon()

    def withdraw(self) -> None:
        """Wait for a slot no longer; what runs, runs on."""
        self._withdrawn = True
        if self._attempt_made is not None:
            self._attempt_made.withdraw()

    # -- the way

    async def _come_to_outcome(
        self, record: Record | None, function: FunctionState | None, policy: Policy
    ) -> RunOutcome:
        if record is not None and record.status.final:
            return AlreadyEnded()
        self.history = history_of(record)
        if expired(now=self._runner.clock(), received_at=self.lease.event.received_at, policy=policy):
            return Expired(policy.max_age)
        if function is None:
            return NoFunction()
        if function.protocol == "lambda" and may_have_been_attempted(self.lease, record):
            found = await self._kept_answer(function) or await self._settled_elsewhere()
            if found is not None:
                return found
        outcome = await self._attempt(function)
        if isinstance(outcome, Result) and outcome.uncertain:
            return await self._kept_answer(function) or self._unless_lease_lost(outcome)
        return outcome

    async def _look_up(self) -> Record | None:
        return await look_up(self._runner.queue, self._runner.availability, self.lease)

    async def _kept_answer(self, function: FunctionState) -> Result | None:
        """What became of an attempt whose answer no gateway has; None: no pod knows of it."""
        runner, event_id = self._runner, self.lease.event.id
        self._on_place(True, at_pod=False)
        try:
            answer = await runner.kept_answers.find(function, event_id, self._number)
        except KappaError as error:
            found = {"errorType": error.error_type, "errorMessage": error.message}
            return Result(Trouble.UNAVAILABLE, Outcome.TIMEOUT, error=found, uncertain=True)
        if answer is None:
            self._on_place(False, at_pod=False)
            return None
        self._found = answer.held
        logger.info("an answer was found that no gateway had settled", extra={"request_id": event_id})
        return runner.attempts.judge(function, answer)

    async def _settled_elsewhere(self) -> SettledElsewhere | None:
        """No pod keeps the answer to this attempt. So it does not run, or it was settled since the record was read:
        what follows is recorded before a pod may forget."""
        record = await self._look_up()
        if record is None or not (record.status.final or record.attempts >= self._number):
            return None
        due = record.next_attempt
        return SettledElsewhere(max(due - self._runner.clock(), 0.0) if due is not None else 0.0)

    async def _attempt(self, function: FunctionState) -> Result | Unreadable | NotBegun:
        event, number = self.lease.event, self._number
        try:
            request = lambda_request(event, number) if function.protocol == "lambda" else web_request(event)
        except UnreadableEvent as error:
            return Unreadable(str(error))
        place = LeasedPlace(self._may_attempt, lambda has_slot: self._on_place(has_slot, at_pod=has_slot))
        attempt = self._attempt_made = self._runner.attempts.make(function, event.id, number, place)
        if self._withdrawn:
            attempt.withdraw()
        return await attempt.run(request)

    def _unless_lease_lost(self, result: Result) -> Result | LeaseLost:
        """Whoever holds the event by now may have found the answer and settled it: this result is out of date then."""
        return result if self._may_attempt() else LeaseLost()

    # -- what follows

    async def _settle(self, outcome: RunOutcome, function: FunctionState | None, policy: Policy) -> None:
        settlement, lease, event_id = self._runner.settlement, self.lease, self.lease.event.id
        match outcome:
            case Result():
                await self._settle_result(outcome, function, policy)
            case AlreadyEnded():
                await settlement.ack(lease)
            case Expired(max_age):
                await settlement.expire(lease, function, self.history, max_age)
            case NoFunction():
                # it may be applied again; until the event is too old it stays
                await settlement.nack(lease, policy.longest_backoff)
            case Unreadable(reason):
                error = {"errorType": "Kappa.UnreadableEvent", "errorMessage": f"the event cannot be run: {reason}"}
                await settlement.fail(lease, function, self.history, error)
            case SettledElsewhere(delay):
                await settlement.nack(lease, delay)
                self._holding.due_in(delay)
            case Withdrawn():
                await settlement.nack(lease)
            case LeaseLost():
                logger.info("an event was left to the gateway that holds it now", extra={"request_id": event_id})
            case _:
                assert_never(outcome)

    async def _settle_result(self, result: Result, function: FunctionState | None, policy: Policy) -> None:
        assert function is not None
        self._holding.attempted(available=result.trouble is not Trouble.UNAVAILABLE)
        self._holding.hold(len(result.response or b""))
        await self._mark.recorded()
        retry = await self._runner.settlement.settle(self.lease, function, self.history, result, policy)
        if retry is not None:
            self._holding.due_in(retry.delay)
        if result.uncertain:
            return
        for held in self._held_answers():
            held.settled()

    def _held_answers(self) -> list[HeldAnswer]:
        """Those that their agents keep until this event is settled."""
        made = self._attempt_made.held if self._attempt_made is not None else None
        return [held for held in (made, self._found) if held is not None]

    # -- what others see of it

    @property
    def _number(self) -> int:
        """Which attempt this is, from 1."""
        return self.history.attempts + 1

    def _may_attempt(self) -> bool:
        return self._runner.queue.may_attempt(self.lease)

    def _on_place(self, placed: bool, *, at_pod: bool) -> None:
        """It has what it waited for (a slot, or no need of one), or waits (again)."""
        self._holding.placed(placed)
        if at_pod:
            self._mark.begins(self.history)
        else:
            self._mark.stops()
