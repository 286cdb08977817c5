"""The spare processes: when they start, who takes them, and whose their first lines are. No process is started."""

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from agent_processes import Process, Sink
from waiting import eventually

from kappa_cli.local.console import Console
from kappa_cli.local.processes import spare_processes
from kappa_cli.local.processes.pods import Pods
from kappa_cli.local.processes.readiness import Readiness
from kappa_cli.local.processes.spare_processes import SpareProcesses

POOL = ("default", "python3.13")


class World:
    def __init__(self, size: int = 1) -> None:
        self.busy = False
        self.looked = asyncio.Event()
        self.sink = Sink()
        self.out = io.StringIO()
        self.console = Console(self.out)
        self.processes: list[Process] = []
        self.spares = SpareProcesses(
            Pods(cast(Any, self.sink)),
            self.console,
            Path("state"),
            size=size,
            public_key=lambda: "key",
            is_busy=self.is_busy,
            new_process=self.new_process,
        )

    def is_busy(self) -> bool:
        self.looked.set()
        return self.busy

    def new_process(self, name: str, folder: Path, on_line: Callable[[str], None]) -> Process:
        self.processes.append(Process(name, folder, on_line))
        return self.processes[-1]

    async def free(self, number: int = 1) -> str:
        """The uid of the newest spare process, once so many were started and it listens."""
        await eventually(lambda: len(self.processes) >= number, "a spare process")
        self.processes[-1].becomes(Readiness.STARTING)
        return list(self.sink.pool_pods)[-1]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_AFTER", "REFILL_AFTER", "RETRY_AFTER"):
        monkeypatch.setattr(spare_processes, name, 0.001)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.console.close()


async def test_one_that_was_taken_is_replaced_and_its_lines_go_with_it(world: World) -> None:
    world.spares.want([POOL])
    uid = await world.free()
    world.processes[0].on_line("first words")
    assert world.spares.take(uid) == (world.processes[0], ["first words"])
    assert world.spares.take(uid) is None
    assert uid not in world.sink.pool_pods
    assert await world.free(2) != uid


async def test_none_starts_while_a_functions_process_does(world: World) -> None:
    world.busy = True
    world.spares.want([POOL])
    await world.looked.wait()
    assert world.processes == []
    world.busy = False
    await world.free()


async def test_one_that_ends_by_itself_is_replaced_and_said(world: World) -> None:
    world.spares.want([POOL])
    await world.free()
    world.processes[0].on_line("its last words")
    world.processes[0].end("was killed by signal 9")
    await world.free(2)
    world.console.close()
    assert "its last words" in world.out.getvalue()
    assert "was killed by signal 9; another one will replace it" in world.out.getvalue()


async def test_a_pool_that_no_function_uses_any_more_ends(world: World) -> None:
    world.spares.want([POOL])
    await world.free()
    world.spares.want([])
    assert world.processes[0].stopping
    assert world.sink.pool_pods == {}


async def test_size_0_keeps_none() -> None:
    world = World(size=0)
    world.spares.want([POOL])
    await world.spares.stop()
    assert world.processes == []
    world.console.close()
