"""Kubernetes events without repetitions, and probes that notice a stuck operator."""

import asyncio
import itertools
from typing import Any

import pytest

from kappa_core.function import Condition, FunctionStatus
from kappa_operator.cache import FunctionRecord
from kappa_operator.events import QUIET_SECONDS, EventRecorder
from kappa_operator.server import FRESH_SECONDS, STUCK_SECONDS, Health

RECORD = FunctionRecord("default", "hello", "u-1", 1, 5, False, None, FunctionStatus())


class Api:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/apis/events.k8s.io/v1/namespaces/default/events"
        self.events.append(body)
        return body


def status(reason: str, message: str = "", *, ready: bool = False, generation: int = 1) -> FunctionStatus:
    condition = Condition(
        type="Ready", status="True" if ready else "False", last_transition_time="", reason=reason, message=message
    )
    return FunctionStatus(observed_generation=generation, conditions=[condition])


@pytest.fixture
def recorder(clock: Any, monkeypatch: pytest.MonkeyPatch) -> EventRecorder:
    monkeypatch.setattr("kappa_operator.events.PER_SECOND", 1e9)
    return EventRecorder(Api(), "operator-1", clock)


async def written(recorder: EventRecorder) -> list[tuple[str, str]]:
    api = recorder._api
    assert isinstance(api, Api)
    task = asyncio.create_task(recorder.run())
    for _ in range(200):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    events, api.events = api.events, []
    return [(event["type"], event["reason"]) for event in events]


async def test_the_life_of_a_function(recorder: EventRecorder) -> None:
    states = [
        FunctionStatus(),
        status("Deployed", ready=True),
        status("Running", ready=True),
        status("ImagePullFailed", "no image"),
        status("Deployed", ready=True),
        status("Deployed", ready=True, generation=2),
    ]
    for old, new in itertools.pairwise(states):
        recorder.status_changed(RECORD, old, new)
    assert await written(recorder) == [
        ("Warning", "ImagePullFailed"),
        ("Normal", "Deployed"),
        ("Normal", "Recovered"),
        ("Normal", "Updated"),
    ]


async def test_flapping_is_written_once_in_a_while(recorder: EventRecorder, clock: Any) -> None:
    good, bad = status("Running", ready=True), status("Crashing", "exit code 1")
    for _ in range(10):
        recorder.status_changed(RECORD, good, bad)
        recorder.status_changed(RECORD, bad, good)
    assert await written(recorder) == [("Warning", "Crashing"), ("Normal", "Recovered")]
    clock.advance(QUIET_SECONDS + 1)
    recorder.status_changed(RECORD, good, bad)
    assert await written(recorder) == [("Warning", "Crashing")]


async def test_another_message_is_another_event(recorder: EventRecorder) -> None:
    recorder.status_changed(RECORD, status("Crashing", "one"), status("Crashing", "two"))
    assert await written(recorder) == [("Warning", "Crashing")]


async def test_a_note_fits_the_api(recorder: EventRecorder) -> None:
    recorder.status_changed(RECORD, FunctionStatus(), status("InitFailed", "ü" * 5000))
    assert len(recorder._queues["Warning"][0]["note"].encode()) <= 1024


def test_a_standby_is_healthy_and_ready(clock: Any) -> None:
    assert Health(lambda: 0, clock).ready() == (True, "standing by")


def test_a_leader_is_ready_once_it_has_listed_everything(clock: Any) -> None:
    health = Health(lambda: 0, clock)
    health.leading = True
    assert health.ready()[0] is False
    health.synced = True
    assert health.ready() == (True, "leading")


def test_work_that_waits_and_is_not_done_shows(clock: Any) -> None:
    health = Health(lambda: 3, clock)
    health.leading = health.synced = True
    health.progress()
    clock.advance(FRESH_SECONDS + 1)
    assert health.ready() == (False, f"3 Functions wait and none was reconciled for {FRESH_SECONDS + 1:.0f} s")
    assert health.healthy()[0] is True
    clock.advance(STUCK_SECONDS)
    assert health.healthy()[0] is False
    health.progress()
    assert (health.ready()[0], health.healthy()[0]) == (True, True)


def test_having_nothing_to_do_is_no_fault(clock: Any) -> None:
    health = Health(lambda: 0, clock)
    health.leading = health.synced = True
    clock.advance(3600)
    assert health.ready()[0] is True
