"""How many processes a function has, which of them, and what their ends mean. No process is started."""

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from agent_processes import Process, Sink
from waiting import eventually

from kappa_cli.local.console import Console
from kappa_cli.local.manifests.workload import Workload
from kappa_cli.local.processes.function_processes import CRASHES_TO_FAIL, FunctionProcesses, Shared
from kappa_cli.local.processes.pods import Pods
from kappa_cli.local.processes.readiness import Readiness
from kappa_core import pool
from kappa_core.demand import FunctionDemand
from kappa_core.function import Function


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.sink = Sink()
        self.out = io.StringIO()
        self.console = Console(self.out)
        self.processes: list[Process] = []
        self.shared = Shared(
            Pods(cast(Any, self.sink)),
            self.console,
            Path("state"),
            "us-east-1",
            "000000000000",
            clock=lambda: self.now,
            new_process=self.new_process,
        )

    def new_process(self, name: str, folder: Path, on_line: Callable[[str], None]) -> Process:
        self.processes.append(Process(name, folder, on_line))
        return self.processes[-1]

    @property
    def staying(self) -> list[str]:
        return [process.name for process in self.processes if not process.stopping]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.console.close()


def function(code: str = "x", **scaling: Any) -> Function:
    spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": code}, "scaling": scaling}
    return Function.model_validate({"metadata": {"name": "hello"}, "spec": spec})


def demand(waiting: int = 1, **pods: int) -> FunctionDemand:
    return FunctionDemand("default", "hello", sum(pods.values()), waiting, 0, 1.0, 1.0, pods)


def serving(world: World, **scaling: Any) -> FunctionProcesses:
    served = FunctionProcesses("hello", function(**scaling), world.shared)
    served.apply(function(**scaling), Workload(function(**scaling)))
    return served


async def test_none_without_demand_and_one_for_the_first_request(world: World) -> None:
    hello = serving(world)
    assert world.processes == []
    hello.demand(demand())
    assert world.staying == ["fn-hello-1"]
    assert hello.is_starting
    assert world.sink.pods["fn-hello-1"].host is None
    world.processes[0].becomes(Readiness.READY)
    assert not hello.is_starting
    pod = world.sink.pods["fn-hello-1"]
    assert (pod.host, pod.port) == ("127.0.0.1", 1234)


async def test_idle_processes_end_after_keep_warm(world: World) -> None:
    hello = serving(world, keepWarm="30s")
    hello.demand(demand())
    world.processes[0].becomes(Readiness.READY)
    hello.demand(None)
    world.now += 29
    hello.tick()
    assert world.staying == ["fn-hello-1"]
    world.now += 2
    hello.tick()
    assert world.staying == []
    assert world.sink.pods["fn-hello-1"].terminating


async def test_a_report_that_is_not_repeated_stops_counting(world: World) -> None:
    hello = serving(world, keepWarm="0s")
    hello.demand(demand())
    world.now += 4
    hello.tick()
    assert world.staying == []


async def test_a_new_revision_replaces_the_old_one_once_it_can_answer(world: World) -> None:
    hello = serving(world)
    hello.demand(demand())
    world.processes[0].becomes(Readiness.READY)
    assert hello.apply(function("y"), Workload(function("y")))
    assert world.staying == ["fn-hello-1", "fn-hello-2"], "the old one answers until the new one can"
    world.processes[1].becomes(Readiness.READY)
    assert world.staying == ["fn-hello-2"]


async def test_a_process_that_ends_by_itself_is_started_again_after_a_pause(world: World) -> None:
    hello = serving(world)
    hello.demand(demand())
    world.processes[0].end("ended by itself with exit status 3")
    await eventually(lambda: not world.sink.pods, "its end")
    hello.demand(demand())
    assert len(world.processes) == 1, "not at once"
    world.now += 1
    hello.demand(demand())
    assert world.staying[-1] == "fn-hello-2"
    world.console.close()
    assert "hello: the process fn-hello-1 ended by itself with exit status 3; the next one" in world.out.getvalue()


async def test_crashes_in_a_row_fail_the_function_until_a_process_is_ready(world: World) -> None:
    hello = serving(world)
    for number in range(CRASHES_TO_FAIL):
        world.now += 100
        hello.demand(demand())
        world.processes[number].end("was killed by signal 11")
        await eventually(lambda: not world.sink.pods, "its end")
    condition = world.sink.function.condition("Ready")
    assert condition.status == "False"
    assert "was killed by signal 11, 3 times in a row" in condition.message
    world.now += 100
    hello.demand(demand())
    world.processes[-1].becomes(Readiness.READY)
    assert world.sink.function.condition("Ready") is None, "as the catalog gave it"


async def test_an_adopted_process_is_the_functions_own(world: World) -> None:
    hello = serving(world)
    spare = world.new_process("pool-1", Path(), lambda line: None)
    hello.adopt(spare, pool.spec_hash(function()), ["a line from before"])
    assert "pool-1" in world.sink.pods
    hello.demand(demand(0, **{"pool-1": 1}))
    assert world.staying == ["pool-1"], "no other one starts"
    world.console.close()
    assert "hello | a line from before" in world.out.getvalue()


async def test_an_adopted_process_of_an_older_revision_ends(world: World) -> None:
    hello = serving(world)
    hello.adopt(world.new_process("pool-1", Path(), lambda line: None), "another", [])
    assert world.staying == []


async def test_stopping_waits_for_every_process(world: World) -> None:
    hello = serving(world)
    hello.demand(demand())
    stopping = asyncio.create_task(hello.stop())
    await eventually(lambda: world.processes[0].stopping, "it is asked to end")
    assert not stopping.done()
    world.processes[0].end("ended by itself with exit status 0")
    await stopping
    assert world.sink.pods == {}
