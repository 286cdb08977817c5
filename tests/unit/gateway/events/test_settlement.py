"""How an event ends: the order of the steps, a full queue, and what its destinations get."""

import pytest
from event_fakes import NOW, Clock, FakeQueue, make_dead, make_event, make_functions, make_lease, make_manifest

from kappa_core.errors import QueueFull
from kappa_core.event import Condition, Kind, Policy, Status, Trouble
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.holding import History
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.results import Result
from kappa_gateway.events.settlement import BUG_PAUSE, FULL_PATIENCE, Settlement

SUCCESS = Result(response=b'"well"', response_size=6)
FAILURE = Result(Trouble.FUNCTION_ERROR, "function_error", error={"errorType": "E", "errorMessage": "m"})
HTTP = {"http": {"url": "https://example.com/hook"}}


class End:
    def __init__(self, **async_):
        self.queue, self.clock, self.counts = FakeQueue(), Clock(), EventCounts()
        self.functions = make_functions(make_manifest(**({"async": async_} if async_ else {})))
        self.accepted = []
        self.settlement = Settlement(
            self.queue,
            QueueAvailability(self.clock, self.clock.sleep),
            self.counts,
            accept=self._accept,
            result_max_bytes=4,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    async def _accept(self, event):
        self.accepted.append(event)
        return await self.queue.enqueue(event)

    async def settle(self, result, attempts=0, **policy):
        function = self.functions.get("default", "hello")
        return await self.settlement.settle(
            make_lease(), function, History(attempts=attempts), result, Policy(max_attempts=1, **policy)
        )

    @property
    def steps(self):
        return [entry[0] for entry in self.queue.log]


async def test_a_failed_event_tells_destinations_then_dies_then_leaves():
    end = End(onFailure=HTTP)
    assert await end.settle(FAILURE) is None
    assert end.steps == ["enqueue", "dead_letter", "save_record", "ack"]
    (follower,) = end.accepted
    assert follower.lane.kind is Kind.DELIVERY
    assert end.counts.of(follower.lane).dead == {Condition.RETRIES_EXHAUSTED: 1}


async def test_a_success_goes_only_to_the_destination_of_successes():
    end = End(onFailure=HTTP)
    await end.settle(SUCCESS)
    assert end.steps == ["save_record", "ack"]


async def test_while_the_queue_is_full_a_success_leaves_first_and_makes_room():
    end = End()
    end.queue.fail = {"save_record": [QueueFull("full")] * 3}
    await end.settle(SUCCESS)
    assert end.steps == ["ack", "save_record"]


async def test_while_the_queue_is_full_a_failure_stays_until_it_is_recorded():
    end = End()
    end.queue.fail = {"save_record": [QueueFull("full")] * 3, "dead_letter": [QueueFull("full")]}
    await end.settle(FAILURE)
    assert end.steps == ["dead_letter", "save_record", "ack"]


async def test_a_full_lane_of_a_destination_dead_letters_what_was_to_go_there():
    end = End(onSuccess=HTTP)
    end.queue.fail = {"enqueue": [QueueFull("full")] * 100}
    await end.settle(SUCCESS)
    assert sum(end.clock.slept) == FULL_PATIENCE
    assert end.steps == ["dead_letter", "save_record", "ack"]
    (dead,) = end.queue.dead.values()
    assert (dead.event.lane.kind, dead.error["errorType"]) == (Kind.DELIVERY, "Kappa.QueueFull")


@pytest.mark.parametrize(
    ("response", "text", "truncated"),
    [(b"1234", "1234", False), (b"12345", "1234", True), ("123ä".encode(), "123", True), (b"\xff", "\ufffd", False)],
)
async def test_of_a_long_result_the_beginning_is_kept(response, text, truncated):
    end = End()
    await end.settle(Result(response=response, response_size=len(response)))
    record = end.queue.known["one"]
    assert (record.result, record.result_truncated) == (text, truncated)


async def test_an_event_is_put_aside_after_a_bug_until_it_is_too_old():
    end = End()
    assert await end.settlement.put_aside(make_lease(), History(), 10.0, RuntimeError("bug")) == BUG_PAUSE
    assert end.queue.log == [("nack", BUG_PAUSE)]
    old = make_lease(make_event(age=11))
    assert await end.settlement.put_aside(old, History(attempts=2), 10.0, RuntimeError("bug")) is None
    record = end.queue.known["one"]
    assert (record.status, record.attempts, record.error["errorType"]) == (Status.FAILED, 2, "Kappa.InternalError")


async def test_a_dead_event_is_counted_by_its_condition():
    end = End()
    await end.settlement.dead_letter(make_dead(condition=Condition.RECURSIVE_INVOCATION))
    assert end.counts.of(make_event().lane).dead == {Condition.RECURSIVE_INVOCATION: 1}
    assert end.queue.dead["one"].died_at == NOW
