"""Any order of operations, against a model in memory."""

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from queue_contract import Backend, a_dead_event, a_record, an_event, ids_of, opened, receive_some

from kappa_core.event import DeadEvent, Event, Kind, Lane, Record, Status
from kappa_gateway.queue.protocol import EventLease, Queue

T = TypeVar("T")
IDS = st.sampled_from([f"event-{number}" for number in range(8)])
LANES = st.sampled_from([(Kind.INVOCATION, "f"), (Kind.DELIVERY, "f"), (Kind.INVOCATION, "g")])
FUNCTIONS = st.sampled_from(["f", "g"])


@dataclass
class ModelLane:
    """No lease runs out and no window ends while the model is run."""

    events: dict[str, Event] = field(default_factory=dict)
    """In the order they came."""
    receive_count: dict[str, int] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    """Those that can be taken."""
    seen: set[str] = field(default_factory=set)


def machine(queue: Queue, runner: asyncio.Runner) -> type[RuleBasedStateMachine]:
    numbers = itertools.count()

    class QueueMachine(RuleBasedStateMachine):
        leases: Bundle[EventLease] = Bundle("leases")

        def __init__(self) -> None:
            super().__init__()
            self.namespace = f"ns-{next(numbers)}"
            self.lanes: dict[Lane, ModelLane] = {}
            self.records: dict[tuple[str, str], Record] = {}
            self.dead: dict[tuple[str, str], DeadEvent] = {}

        def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
            return runner.run(coroutine)

        def lane(self, named: tuple[Kind, str]) -> tuple[Lane, ModelLane]:
            lane = Lane(named[0], self.namespace, named[1])
            return lane, self.lanes.setdefault(lane, ModelLane())

        @rule(named=LANES, event_id=IDS, payload=st.binary(max_size=20), text=st.text(max_size=5))
        def put(self, named: tuple[Kind, str], event_id: str, payload: bytes, text: str) -> None:
            lane, model = self.lane(named)
            event = an_event(event_id, lane, payload, attributes={"text": text}, keyed=True)
            assert self.run(queue.enqueue(event)) is (event_id not in model.seen)
            if event_id not in model.seen:
                model.seen.add(event_id)
                model.events[event_id] = event
                model.receive_count[event_id] = 0
                model.ready.add(event_id)

        @rule(target=leases, named=LANES, count=st.integers(1, 4))
        def take(self, named: tuple[Kind, str], count: int) -> Any:
            lane, model = self.lane(named)
            expected = min(count, len(model.ready))
            if expected == 0:
                assert self.run(queue.receive(lane, count, 0.0)) == []
                return multiple()
            never = [
                event_id for event_id in model.events if event_id in model.ready and not model.receive_count[event_id]
            ]
            taken = self.run(receive_some(queue, expected, lane))
            fresh = []
            for lease in taken:
                event_id = lease.event.id
                assert lease.event == model.events[event_id]
                assert event_id in model.ready
                model.ready.remove(event_id)
                model.receive_count[event_id] += 1
                assert lease.receive_count == model.receive_count[event_id]
                if lease.receive_count == 1:
                    fresh.append(event_id)
                if lease.fresh:
                    assert lease.receive_count == 1
            assert fresh == never[: len(fresh)]
            return multiple(*taken)

        @rule(lease=consumes(leases))
        def done(self, lease: EventLease) -> None:
            self.run(queue.ack(lease))
            model = self.lanes[lease.event.lane]
            model.events.pop(lease.event.id, None)

        @rule(lease=consumes(leases), now=st.booleans())
        def retry(self, lease: EventLease, now: bool) -> None:
            self.run(queue.nack(lease, 0.0 if now else 600.0))
            model = self.lanes[lease.event.lane]
            if now and lease.event.id in model.events:
                model.ready.add(lease.event.id)

        @rule(lease=leases)
        def extend(self, lease: EventLease) -> None:
            self.run(queue.extend([lease]))

        @rule(named=LANES)
        def purge(self, named: tuple[Kind, str]) -> None:
            lane, model = self.lane(named)
            assert self.run(queue.purge(lane)) == len(model.events)
            model.events.clear()
            model.ready.clear()

        @rule(function=FUNCTIONS, event_id=IDS, status=st.sampled_from(list(Status)), attempts=st.integers(0, 3))
        def save(self, function: str, event_id: str, status: Status, attempts: int) -> None:
            record = a_record(event_id, status, Lane(Kind.INVOCATION, self.namespace, function), attempts=attempts)
            self.run(queue.save_record(record))
            old = self.records.get((function, event_id))
            if old is None or status.final or not old.status.final:
                self.records[function, event_id] = record

        @rule(function=FUNCTIONS, event_id=IDS, attempts=st.integers(0, 3))
        def dead_letter(self, function: str, event_id: str, attempts: int) -> None:
            event = an_event(event_id, Lane(Kind.INVOCATION, self.namespace, function))
            dead = a_dead_event(event, attempts=attempts)
            self.run(queue.dead_letter(dead))
            self.dead[function, event_id] = dead

        @rule(function=FUNCTIONS, event_id=IDS)
        def delete_dead_event(self, function: str, event_id: str) -> None:
            found = self.dead.pop((function, event_id), None)
            assert self.run(queue.delete_dead_event(self.namespace, function, event_id)) is (found is not None)

        @rule(named=LANES, event_id=IDS, limit=st.integers(1, 10))
        def look_into_a_lane(self, named: tuple[Kind, str], event_id: str, limit: int) -> None:
            lane, model = self.lane(named)
            assert self.run(queue.find(lane, event_id)) == model.events.get(event_id)
            ids = list(model.events)
            assert ids_of(self.run(queue.events(lane, limit=limit))) == ids[:limit]
            rest = ids[ids.index(event_id) + 1 :] if event_id in ids else ids
            assert ids_of(self.run(queue.events(lane, limit=limit, after=event_id))) == rest[:limit]

        @rule(function=FUNCTIONS, event_id=IDS)
        def look_at_outcomes(self, function: str, event_id: str) -> None:
            where = (self.namespace, function)
            assert self.run(queue.record(*where, event_id)) == self.records.get((function, event_id))
            assert self.run(queue.dead_event(*where, event_id)) == self.dead.get((function, event_id))
            records, dead = self.run(queue.records(*where, limit=50)), self.run(queue.dead_events(*where, limit=50))
            assert {record.id: record for record in records} == {
                key[1]: record for key, record in self.records.items() if key[0] == function
            }
            assert {one.event.id: one for one in dead} == {
                key[1]: one for key, one in self.dead.items() if key[0] == function
            }

        @invariant()
        def counts(self) -> None:
            states = {state.lane: state for state in self.run(queue.lanes())}
            for lane, model in self.lanes.items():
                state = states.get(lane)
                total = state.waiting + state.held if state else 0
                assert total == len(model.events), (state, model)

    return QueueMachine


def test_any_order_of_operations(backend: Backend) -> None:
    with asyncio.Runner() as runner:
        opening = opened(backend)
        queues = runner.run(opening.__aenter__())
        try:
            queue = runner.run(queues.open())
            run_state_machine_as_test(
                machine(queue, runner),
                settings=settings(
                    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )
        finally:
            runner.run(queues.close_all())
