"""Trying new pod templates: few at a time, until there is a verdict, and again where waiting may help."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from kappa_core.function import Condition, Function, FunctionStatus
from kappa_operator.verify import FIRST_RETRY, LINGER_SECONDS, Verifier

TIMEOUT = 60.0


class Timers:
    """call_later with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pending: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        class Handle:
            def cancel(handle) -> None:
                self.pending = [entry for entry in self.pending if entry[2] is not handle]

        handle: Any = Handle()
        self.pending.append((self.now + seconds, call, handle))
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((entry for entry in self.pending if entry[0] <= end), key=lambda entry: entry[0]):
            self.pending.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = end


class Holds:
    def __init__(self) -> None:
        self.held: list[str] = []

    def hold(self, key: str) -> None:
        assert key not in self.held
        self.held.append(key)

    def release(self, key: str) -> None:
        self.held.remove(key)


class World:
    def __init__(self, concurrency: int = 2) -> None:
        self.timers, self.holds = Timers(), Holds()
        self.verifier = Verifier(self.holds, concurrency, TIMEOUT, self.timers.later)

    def consider(self, key: str, revision: str = "r1", **more: Any) -> None:
        scaling = more.pop("scaling", {})
        reason, verified, failing = more.pop("reason", None), more.pop("verified", None), more.pop("failing", False)
        function = Function.model_validate(
            {
                "metadata": {"name": "hello"},
                "spec": {"runtime": "p", "handler": "m.h", "code": {"inline": "x"}, "scaling": scaling},
            }
        )
        status = FunctionStatus(
            verified_revision=verified,
            conditions=[
                Condition(
                    type="Ready",
                    status="False" if reason else "True",
                    last_transition_time="",
                    reason=reason or "Deployed",
                    message="",
                )
            ],
        )
        self.verifier.consider(key, function, status, revision, failing=failing)


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_template_is_tried_until_it_is_verified(world: World) -> None:
    world.consider("a")
    assert world.holds.held == ["a"]
    world.consider("a", verified="r1")
    assert world.holds.held == []
    assert world.timers.pending == []


def test_no_more_than_so_many_at_a_time_first_come_first_served(world: World) -> None:
    for key in "abcd":
        world.consider(key)
    assert world.holds.held == ["a", "b"]
    world.consider("b", verified="r1")
    assert world.holds.held == ["a", "c"]


def test_what_is_verified_is_not_tried(world: World) -> None:
    world.consider("a", verified="r1")
    assert world.holds.held == []


@pytest.mark.parametrize("scaling", [{"minReplicas": 1}, {"maxReplicas": 0}])
def test_where_pods_run_anyway_or_none_may_there_is_nothing_to_try(world: World, scaling: dict[str, int]) -> None:
    world.consider("a", scaling=scaling)
    assert world.holds.held == []


def test_where_no_pod_can_help_none_is_started(world: World) -> None:
    world.consider("a", reason="ConfigMapNotFound")
    assert world.holds.held == []


def test_zero_turns_it_off() -> None:
    world = World(concurrency=0)
    world.consider("a")
    assert world.holds.held == []


def test_one_that_cannot_start_makes_room_lingers_and_is_tried_again_later(world: World) -> None:
    for key in "abc":
        world.consider(key)
    world.consider("a", reason="ImagePullFailed", failing=True)
    assert world.holds.held == ["a", "b", "c"], "it lingers, and the next one starts"
    world.timers.advance(LINGER_SECONDS)
    assert world.holds.held == ["b", "c"]
    world.consider("b", verified="r1")
    world.timers.advance(FIRST_RETRY)
    assert "a" in world.holds.held


def test_retries_come_later_and_later(world: World) -> None:
    world.consider("a")
    starts: list[float] = []
    held = False
    while len(starts) < 4:
        world.timers.advance(1.0)
        if "a" in world.holds.held and not held:
            starts.append(world.timers.now)
        held = "a" in world.holds.held
        if held:
            world.consider("a", reason="ImagePullFailed", failing=True)
    waits = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_a_failure_remembered_from_before_is_no_verdict_on_this_try(world: World) -> None:
    for key in "abc":
        world.consider(key, reason="ImagePullFailed")
    assert world.holds.held == ["a", "b"], "nothing was seen yet, so nobody makes room"


def test_a_try_that_takes_too_long_makes_room(world: World) -> None:
    for key in "abc":
        world.consider(key)
    world.timers.advance(TIMEOUT)
    assert world.holds.held == ["c"]


def test_a_lingering_pod_that_starts_after_all_is_the_verdict(world: World) -> None:
    world.consider("a")
    world.consider("a", reason="ConfigMissing", failing=True)
    world.consider("a", verified="r1")
    assert world.holds.held == []
    assert len(world.verifier) == 0


def test_a_new_revision_is_a_new_try(world: World) -> None:
    world.consider("a")
    world.consider("a", revision="r2")
    assert world.holds.held == ["a"]
    world.consider("a", revision="r2", verified="r2")
    assert world.holds.held == []


def test_a_function_that_goes_lets_the_next_one_in(world: World) -> None:
    for key in "abc":
        world.consider(key)
    world.verifier.forget("a")
    assert world.holds.held == ["b", "c"]


def test_stop_leaves_no_timer(world: World) -> None:
    world.consider("a")
    world.verifier.stop()
    assert world.timers.pending == []
