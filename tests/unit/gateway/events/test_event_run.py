"""The way of an event: every outcome of its run, and what follows from it."""

import asyncio

import pytest
from event_fakes import (
    NOW,
    Clock,
    FakeHolding,
    FakeQueue,
    make_event,
    make_functions,
    make_lease,
    make_manifest,
    make_record,
)

from kappa_core.errors import GatewayTimeout, QueueUnavailable
from kappa_core.event import Condition, Status, Trouble
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.event_run import EventRunner
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.policies import Policies
from kappa_gateway.events.results import LeaseLost, NoFunction, Result, Withdrawn
from kappa_gateway.events.running import RunningEvents
from kappa_gateway.events.settlement import Settlement
from kappa_gateway.settings import Settings

SETTINGS = Settings(event_retry_delays=[60.0, 120.0], event_first_backoff=1.0, event_longest_backoff=300.0)
ERROR = {"errorType": "E", "errorMessage": "m"}
SUCCESS = Result(response=b'"well"', response_size=6)
FUNCTION_ERROR = Result(Trouble.FUNCTION_ERROR, "function_error", error=ERROR, response=b"{}", response_size=2)
UNAVAILABLE = Result(Trouble.UNAVAILABLE, "throttled", error=ERROR)
REFUSED = Result(Trouble.REFUSED, "throttled", error=ERROR)
UNCERTAIN = Result(Trouble.UNAVAILABLE, "lost", error=ERROR, uncertain=True)


class Held:
    """An answer that an agent keeps."""

    def __init__(self):
        self.ends = []

    def settled(self):
        self.ends.append("settled")

    def abandon(self):
        if not self.ends:
            self.ends.append("abandoned")


class ScriptedAttempt:
    def __init__(self, result, place, waits):
        self.held = Held()
        self.withdrawn = asyncio.Event()
        self.request = None
        self._result = result
        self._place = place
        self._waits = waits

    async def run(self, request):
        self.request = request
        self._place.waits()
        if self._waits:
            await self.withdrawn.wait()
            return Withdrawn()
        if not self._place.may_begin():
            return LeaseLost()
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def withdraw(self):
        self.withdrawn.set()


class Way:
    """One event's run, and everything around it as a test wants it."""

    def __init__(self, *manifests):
        self.clock, self.queue, self.holding = Clock(), FakeQueue(), FakeHolding()
        self.functions = make_functions(*manifests)
        self.result, self.waits = SUCCESS, False
        self.kept = []
        """What becomes of the questions for a kept answer, one by one."""
        self.asked = []
        self.attempts = []
        self.numbers = []
        self.counts = EventCounts()
        availability = QueueAvailability(self.clock, self.clock.sleep)
        self.running = RunningEvents(self.queue, availability, self.counts, self.clock)
        self.runner = EventRunner(
            self.queue,
            availability,
            self.functions,
            policies=Policies(SETTINGS),
            kept_answers=self,
            attempts=self,
            settlement=Settlement(
                self.queue,
                availability,
                self.counts,
                accept=self.queue.enqueue,
                result_max_bytes=1024,
                clock=self.clock,
                sleep=self.clock.sleep,
            ),
            running=self.running,
            clock=self.clock,
        )

    def make(self, function, request_id, number, place):
        self.numbers.append(number)
        self.attempts.append(ScriptedAttempt(self.result, place, self.waits))
        return self.attempts[-1]

    async def find(self, function, request_id, attempt):
        self.asked.append(attempt)
        found = self.kept.pop(0) if self.kept else None
        if isinstance(found, Exception):
            raise found
        return found

    def judge(self, function, answer):
        return answer.result

    async def run(self, lease=None):
        await self.runner.make(self.holding, lease or make_lease()).run()

    @property
    def held(self):
        return [end for attempt in self.attempts for end in attempt.held.ends]

    @property
    def writes(self):
        return [entry for entry in self.queue.log if entry[0] != "record"]


class Kept:
    def __init__(self, result):
        self.result = result
        self.held = Held()


@pytest.fixture
def way():
    return Way()


# -- an attempt's result -> what follows


async def test_success_is_recorded_then_acked(way):
    await way.run()
    assert way.writes == [("save_record", Status.SUCCEEDED), ("ack",)]
    record = way.queue.known["one"]
    assert (record.attempts, record.result, record.error) == (1, '"well"', None)
    assert ("attempted", True) in way.holding.log
    assert way.held == ["settled"]


async def test_a_function_error_is_retried_after_the_first_delay(way):
    way.result = FUNCTION_ERROR
    await way.run()
    assert way.writes == [("save_record", Status.RETRYING), ("nack", 60.0)]
    record = way.queue.known["one"]
    assert (record.attempts, record.postponements, record.next_attempt) == (1, 0, NOW + 60)
    assert ("due_in", 60.0) in way.holding.log
    assert way.held == ["settled"]


async def test_the_last_function_error_is_dead_lettered(way):
    way.result = FUNCTION_ERROR
    way.queue.known["one"] = make_record(attempts=2, receive_count=2)
    await way.run(make_lease(receive_count=3))
    assert way.writes == [
        ("dead_letter", Condition.RETRIES_EXHAUSTED),
        ("save_record", Status.FAILED),
        ("ack",),
    ]
    assert way.queue.known["one"].attempts == 3


async def test_what_finds_nothing_available_is_postponed_and_brakes_its_lane(way):
    way.result = UNAVAILABLE
    await way.run()
    assert way.writes == [("save_record", Status.RETRYING), ("nack", 1.0)]
    assert (way.queue.known["one"].attempts, way.queue.known["one"].postponements) == (0, 1)
    assert ("attempted", False) in way.holding.log


async def test_a_refused_event_fails_at_once(way):
    way.result = REFUSED
    await way.run()
    assert way.writes[0] == ("dead_letter", Condition.ZERO_RESERVED_CONCURRENCY)
    assert way.writes[-1] == ("ack",)


async def test_an_attempt_withdrawn_while_it_waits_is_nacked_at_once(way):
    way.waits = True
    run = way.runner.make(way.holding, make_lease())
    task = asyncio.create_task(run.run())
    await asyncio.sleep(0)
    run.withdraw()
    await task
    assert way.queue.log == [("nack", 0.0)]
    assert way.counts.of(make_lease().event.lane).retried == {}


async def test_a_run_withdrawn_before_it_has_an_attempt_withdraws_that(way):
    way.waits = True
    run = way.runner.make(way.holding, make_lease())
    run.withdraw()
    await run.run()
    assert way.queue.log == [("nack", 0.0)]


async def test_an_event_whose_lease_is_lost_is_left_alone(way):
    way.queue.lost_leases.add("one")
    await way.run()
    assert way.queue.log == []


async def test_a_function_that_disappears_during_the_attempt_leaves_the_event_in_the_queue(way):
    way.result = NoFunction()
    await way.run()
    assert way.queue.log == [("nack", 300.0)]


async def test_an_uncertain_attempt_is_asked_for_then_postponed_as_one_that_may_run(way):
    way.result = UNCERTAIN
    await way.run(make_lease())
    assert way.asked == [1]
    record = way.queue.known["one"]
    assert (record.status, record.receive_count) == (Status.RETRYING, 0), "the next run has to ask again"
    assert way.held == ["abandoned"]


async def test_an_uncertain_attempt_whose_answer_is_found_ends_with_it(way):
    way.result, kept = UNCERTAIN, Kept(SUCCESS)
    way.kept = [kept]
    await way.run()
    assert way.writes == [("save_record", Status.SUCCEEDED), ("ack",)]
    assert kept.held.ends == ["settled"]


async def test_an_uncertain_attempt_on_a_lost_lease_is_left_alone(way):
    way.result = UNCERTAIN
    allowed = [True]
    way.queue.may_attempt = lambda lease: allowed.pop() if allowed else False
    await way.run()
    assert way.queue.log == []


# -- before the attempt


async def test_a_new_event_needs_no_look_at_its_record(way):
    await way.run()
    assert ("record",) not in way.queue.log
    assert (way.numbers, way.asked) == ([1], [])


async def test_an_event_that_has_ended_is_only_acked(way):
    way.queue.known["one"] = make_record(status=Status.SUCCEEDED)
    await way.run(make_lease(receive_count=2))
    assert way.writes == [("ack",)]
    assert not way.attempts


async def test_an_event_too_old_expires_with_its_last_error(way):
    way.queue.known["one"] = make_record(attempts=1, error=ERROR, received_at=NOW - 7 * 3600)
    await way.run(make_lease(make_event(age=7 * 3600), receive_count=2))
    assert [entry[0] for entry in way.writes] == ["dead_letter", "save_record", "ack"]
    assert way.queue.known["one"].status is Status.EXPIRED
    assert way.queue.dead["one"].error == ERROR
    assert not way.attempts


async def test_an_event_without_its_function_returns_to_the_queue():
    way = Way(make_manifest("other"))
    await way.run()
    assert way.queue.log == [("nack", 300.0)]


async def test_an_event_without_its_function_expires_after_six_hours():
    way = Way(make_manifest("other"))
    await way.run(make_lease(make_event(age=6 * 3600 + 1)))
    assert way.queue.known["one"].status is Status.EXPIRED


async def test_an_event_that_cannot_be_read_fails_without_an_attempt(way):
    await way.run(make_lease(make_event("no\nid")))
    assert way.writes[0] == ("dead_letter", Condition.RETRIES_EXHAUSTED)
    assert way.queue.dead["no\nid"].error["errorType"] == "Kappa.UnreadableEvent"
    assert not way.attempts


@pytest.mark.parametrize(
    ("record", "lease", "asks"),
    [
        (None, {"receive_count": 2}, True),
        (make_record(attempts=1, receive_count=1), {"receive_count": 2}, False),
        (make_record(attempts=1, receive_count=1), {"receive_count": 3}, True),
        (make_record(status=Status.RUNNING, receive_count=1), {"receive_count": 2}, True),
        (None, {"receive_count": 1, "fresh": False, "counted": False}, True),
        (None, {"receive_count": 1, "fresh": False}, False),
    ],
)
async def test_the_pods_are_asked_where_an_attempt_may_have_begun_that_the_record_does_not_know(
    way, record, lease, asks
):
    if record is not None:
        way.queue.known["one"] = record
    await way.run(make_lease(**lease))
    number = record.attempts + 1 if record is not None else 1
    assert way.asked == ([number] if asks else [])
    assert way.numbers == [number]


async def test_a_kept_answer_spares_the_attempt(way):
    kept = Kept(FUNCTION_ERROR)
    way.kept = [kept]
    await way.run(make_lease(receive_count=2))
    assert not way.attempts
    assert way.writes == [("save_record", Status.RETRYING), ("nack", 60.0)]
    assert kept.held.ends == ["settled"]


async def test_an_attempt_that_still_runs_elsewhere_is_postponed_not_repeated(way):
    way.kept = [GatewayTimeout("it runs")]
    await way.run(make_lease(receive_count=2))
    assert not way.attempts
    assert way.writes == [("save_record", Status.RETRYING), ("nack", 1.0)]
    assert way.queue.known["one"].receive_count == 1, "the next run has to ask again"


async def test_an_attempt_that_another_gateway_settled_meanwhile_is_nacked_until_the_next_is_due(way):
    async def found_later(function, request_id, attempt):
        way.queue.known["one"] = make_record(attempts=1, next_attempt=NOW + 40)

    way.find = found_later
    await way.run(make_lease(receive_count=2))
    assert way.writes == [("nack", 40.0)]
    assert ("due_in", 40.0) in way.holding.log
    assert not way.attempts


async def test_web_servers_keep_no_answers():
    way = Way(make_manifest(code={"image": {"ref": "web:1", "protocol": "http"}}))
    await way.run(make_lease(receive_count=2))
    assert (way.asked, len(way.attempts)) == ([], 1)
    assert way.attempts[0].request.head(None).startswith(b"POST / HTTP/1.1\r\n")


async def test_the_record_of_an_earlier_event_of_the_same_key_is_not_this_ones(way):
    way.queue.known["one"] = make_record(status=Status.SUCCEEDED, received_at=NOW - 1000)
    await way.run(make_lease(receive_count=2))
    assert (way.numbers, way.writes[-1]) == ([2], ("ack",))


# -- around the way


async def test_an_outage_of_the_queue_holds_the_event_until_it_is_settled(way):
    way.queue.fail = {name: [QueueUnavailable("away")] * 3 for name in ("save_record", "ack")}
    await way.run()
    assert way.writes == [("save_record", Status.SUCCEEDED), ("ack",)]
    assert len(way.clock.slept) == 6
    assert way.held == ["settled"]


async def test_a_bug_leaves_the_answer_at_the_agent(way):
    way.queue.fail = {"ack": [RuntimeError("bug")]}
    with pytest.raises(RuntimeError):
        await way.run()
    assert way.held == ["abandoned"]
    assert "one" not in way.running


async def test_it_is_running_only_while_it_has_a_slot(way):
    seen = []
    way.queue.before_save = lambda record: asyncio.sleep(0, seen.append("one" in way.running))
    await way.run()
    assert seen == [True]
    assert "one" not in way.running
    assert way.holding.log[:2] == [("placed", False), ("placed", True)]
    assert sum(way.counts.of(make_lease().event.lane).age.counts) == 1
