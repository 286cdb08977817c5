"""When functions are scaled: up at once for waiting requests, down only when the pods are known to be unneeded."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kappa_core.demand import DemandReport, FunctionDemand
from kappa_core.observed import PodFacts
from kappa_core.scaling import ScalingSpec
from kappa_operator.scaler import GONE_SECONDS, Scaler

KEY = "default/hello"
SPEC = ScalingSpec(min_replicas=0, max_replicas=10, keep_warm=10.0, concurrency=1)


@dataclass
class Api:
    replicas: dict[str, int] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    costs: list[tuple[str, int]] = field(default_factory=list)
    version: int = 100
    fail: int = 0

    async def scale(self, key: str, replicas: int) -> int | None:
        if self.fail:
            self.fail -= 1
            raise OSError("no way to the API server")
        self.calls.append(replicas)
        if key not in self.replicas:
            return None
        self.replicas[key] = replicas
        self.version += 1
        return self.version

    async def set_deletion_cost(self, pod: PodFacts, cost: int) -> None:
        self.costs.append((pod.name, cost))


@dataclass
class World:
    clock: Any
    api: Api = field(default_factory=Api)
    pods: list[PodFacts] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0)

        self.scaler = Scaler(self.api, lambda key: self.pods, clock=self.clock, sleep=sleep)

    def deployed(self, replicas: int = 0, spec: ScalingSpec = SPEC) -> None:
        self.api.replicas[KEY] = replicas
        self.scaler.update(KEY, spec, replicas, self.api.version)

    def report(self, *demands: FunctionDemand, gateway: str = "g1", full: bool = True) -> None:
        if full:
            self.scaler.connected(gateway)
        self.scaler.report(gateway, DemandReport(gateway, full, demands))

    async def settle(self) -> list[int]:
        """The calls since the last time."""
        for _ in range(20):
            await asyncio.sleep(0)
        calls, self.api.calls = self.api.calls, []
        return calls

    async def tick(self, seconds: float) -> list[int]:
        self.clock.advance(seconds)
        self.scaler.tick()
        return await self.settle()


@pytest.fixture
def world(clock: Any) -> World:
    return World(clock)


def demand(waiting: int = 0, in_flight: int = 0, **more: Any) -> FunctionDemand:
    return FunctionDemand("default", "hello", in_flight=in_flight, waiting=waiting, **more)


def pod(name: str, cost: int = 0) -> PodFacts:
    return PodFacts(
        "default", name, name, "hello", "r", "10.0.0.1", True, True, False, "lambda", cost, 0, None
    )  # fmt: skip


async def test_a_waiting_request_scales_up_on_the_next_turn_of_the_loop(world: World) -> None:
    world.deployed()
    world.report(demand(waiting=1), full=False)
    await asyncio.sleep(0)
    assert world.api.calls == [1]


async def test_the_same_report_again_patches_nothing(world: World) -> None:
    world.deployed()
    world.report(demand(waiting=1))
    assert await world.settle() == [1]
    world.report(demand(waiting=1))
    assert await world.settle() == []


async def test_demand_of_several_gateways_adds_up(world: World) -> None:
    world.deployed()
    world.report(demand(in_flight=2), gateway="g1")
    world.report(demand(in_flight=3), gateway="g2")
    await world.settle()
    assert world.api.replicas[KEY] == 5


async def test_pods_go_when_they_were_not_needed_for_keep_warm(world: World) -> None:
    world.deployed()
    world.report(demand(in_flight=3))
    await world.settle()
    world.report()
    assert await world.tick(9.0) == []
    assert await world.tick(2.0) == [0]


async def test_without_a_gateway_no_pod_goes(world: World) -> None:
    world.deployed()
    world.report(demand(in_flight=3))
    await world.settle()
    world.scaler.disconnected("g1")
    for _ in range(5):
        assert await world.tick(60.0) == []
    world.report(gateway="g2")
    assert await world.tick(11.0) == [0]


async def test_without_a_full_report_requests_still_bring_pods(world: World) -> None:
    world.deployed()
    world.report(demand(waiting=1), full=False)
    assert await world.settle() == [1]
    assert await world.tick(60.0) == []


async def test_a_lost_gateways_demand_counts_a_moment_longer(world: World) -> None:
    spec = replace(SPEC, keep_warm=0.0)
    world.deployed(spec=spec)
    world.report(demand(in_flight=2), gateway="g1")
    world.report(demand(in_flight=1), gateway="g2")
    await world.settle()
    world.scaler.disconnected("g1")
    assert await world.tick(GONE_SECONDS / 2) == []
    assert await world.tick(GONE_SECONDS) == [1]


async def test_a_gateway_that_is_back_in_time_lost_nothing(world: World) -> None:
    world.deployed(spec=replace(SPEC, keep_warm=0.0))
    world.report(demand(in_flight=2), gateway="g1")
    world.report(gateway="g2")
    await world.settle()
    world.scaler.disconnected("g1")
    await world.tick(1.0)
    world.report(demand(in_flight=2), gateway="g1")
    assert await world.tick(GONE_SECONDS * 2) == []


async def test_after_a_restart_pods_that_run_count_as_needed(world: World) -> None:
    world.report()
    world.deployed(replicas=4)
    assert await world.tick(9.0) == []
    assert await world.tick(2.0) == [0]


async def test_demand_reported_before_the_function_was_known_counts(world: World) -> None:
    world.report(demand(waiting=1), full=False)
    world.deployed()
    assert await world.settle() == [1]


async def test_new_bounds_act_at_once(world: World) -> None:
    world.report()
    world.deployed()
    world.scaler.update(KEY, replace(SPEC, min_replicas=2), 0, world.api.version)
    assert await world.settle() == [2]
    world.report(demand(in_flight=8))
    assert await world.settle() == [8]
    world.scaler.update(KEY, replace(SPEC, max_replicas=3), 8, world.api.version)
    assert await world.settle() == [3]


async def test_a_scale_by_hand_is_corrected(world: World) -> None:
    world.report()
    world.deployed()
    world.scaler.update(KEY, SPEC, 5, world.api.version + 1)
    assert await world.settle() == [0]


async def test_an_older_event_does_not_undo_a_newer_patch(world: World) -> None:
    world.deployed()
    old = world.api.version
    world.report(demand(waiting=1))
    assert await world.settle() == [1]
    world.scaler.update(KEY, SPEC, 0, old)
    assert await world.settle() == []


async def test_a_held_pod_goes_at_once_when_let_go(world: World) -> None:
    world.report()
    world.deployed()
    world.scaler.hold(KEY)
    assert await world.settle() == [1]
    assert await world.tick(60.0) == []
    world.scaler.release(KEY)
    assert await world.settle() == [0]


async def test_a_held_pod_is_let_go_without_a_gateway_too(world: World) -> None:
    world.deployed()
    world.scaler.hold(KEY)
    assert await world.settle() == [1]
    world.scaler.release(KEY)
    assert await world.settle() == [0]


async def test_max_replicas_0_means_none_even_to_try(world: World) -> None:
    world.report()
    world.deployed(spec=replace(SPEC, max_replicas=0))
    world.scaler.hold(KEY)
    world.report(demand(waiting=5))
    assert await world.settle() == []


async def test_a_failed_patch_is_tried_again_with_what_is_wanted_then(world: World) -> None:
    world.deployed()
    world.api.fail = 2
    world.report(demand(waiting=1))
    world.report(demand(in_flight=2))
    assert await world.settle() == [2]


async def test_a_deployment_that_is_missing_is_left_to_the_reconciler(world: World) -> None:
    world.deployed()
    del world.api.replicas[KEY]
    world.report(demand(waiting=1))
    assert await world.settle() == [1]
    assert world.scaler.wanted(KEY, default=0) == 1
    world.deployed(replicas=1)
    assert await world.settle() == []


async def test_before_some_pods_go_the_busy_ones_are_made_dear(world: World) -> None:
    world.deployed(spec=replace(SPEC, keep_warm=0.0))
    world.report(demand(in_flight=3))
    await world.settle()
    world.pods = [pod("a"), pod("b", cost=1), pod("c", cost=2)]
    world.report(demand(in_flight=2, pods={"a": 1, "c": 2}))
    assert await world.settle() == [2]
    assert sorted(world.api.costs) == [("a", 1), ("b", 0)]


async def test_a_function_that_is_gone_is_scaled_no_more(world: World) -> None:
    world.deployed(replicas=1)
    world.scaler.forget(KEY)
    world.report(demand(waiting=5))
    assert await world.tick(60.0) == []


async def test_run_ends_its_patches_with_itself(world: World, clock: Any) -> None:
    started = asyncio.Event()
    ended: list[str] = []

    async def slow(key: str, replicas: int) -> int | None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(key)
        return None

    world.api.scale = slow  # type: ignore[method-assign]
    task = asyncio.create_task(world.scaler.run())
    world.deployed()
    world.report(demand(waiting=1))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [KEY]
