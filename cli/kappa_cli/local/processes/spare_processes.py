"""The spare processes, which stand for the warm pools of a cluster: agents without a function, for each runtime and
namespace.

The gateway specializes one in the first request to it, as in a cluster, and reports the claim in its demand feed. Then
the process moves to that function's `FunctionProcesses`, and another spare one is started.
"""

import asyncio
import itertools
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kappa_cli.local.console import Console
from kappa_cli.local.processes import launch
from kappa_cli.local.processes.agent_process import AgentProcess, NewProcess
from kappa_cli.local.processes.pods import Pods, PoolKey
from kappa_core.names import pool_name

FIRST_AFTER: Final = 0.5
"""Seconds after the functions were read: what is requested at once has the processors first."""
REFILL_AFTER: Final = 0.25
"""Seconds after a spare process was taken, for the same reason."""
RETRY_AFTER: Final = 5.0
"""Seconds after one that ended by itself."""
STOP_TIMEOUT: Final = 2.0
"""Seconds in which a spare process must end; it has nothing to finish."""
MAX_POOLS: Final = 8
_HELD_LINES: Final = 1000
"""Lines that are held back until it is known which function wrote them."""
_HELD_SECONDS: Final = 1.0


class _HeldOutput:
    """A function's first lines come a moment before the claim that says which function it is. They are held back for a
    second; without a claim, `write` gets them."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_later(_HELD_SECONDS, self.flush)
        self._lines.append(line)
        if len(self._lines) > _HELD_LINES:
            self.flush()

    def flush(self) -> None:
        for line in self.take():
            self._write(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


@dataclass(frozen=True, slots=True, eq=False)
class _Spare:
    pool: PoolKey
    process: AgentProcess
    output: _HeldOutput
    following: asyncio.Task[None]
    """Ends after the process."""


class SpareProcesses:
    """`size` spare processes for each pool that `want` names. `public_key` is called when the first one starts.

    None starts while `is_busy` says that a process of a function does: a request waits for that one.
    """

    def __init__(
        self,
        pods: Pods,
        console: Console,
        state: Path,
        *,
        size: int,
        public_key: Callable[[], str],
        is_busy: Callable[[], bool],
        new_process: NewProcess = AgentProcess,
    ) -> None:
        self._pods = pods
        self._console = console
        self._state = state
        self._size = size
        self._public_key = public_key
        self._is_busy = is_busy
        self._new_process = new_process
        self._wanted: frozenset[PoolKey] = frozenset()
        self._spares: dict[str, _Spare] = {}
        """By pod uid."""
        self._timers: dict[PoolKey, asyncio.TimerHandle] = {}
        self._numbers = itertools.count(1)
        self._started = False
        self._stopping = False

    def want(self, pools: Collection[PoolKey]) -> None:
        """The pools that at least one function can use now."""
        self._wanted = frozenset(sorted(pools)[:MAX_POOLS])
        for spare in self._spares.values():
            if spare.pool not in self._wanted:
                self._end(spare)
        after, self._started = (0.0 if self._started else FIRST_AFTER), True
        for pool in self._wanted:
            self._fill_after(after, pool)

    def take(self, uid: str) -> tuple[AgentProcess, list[str]] | None:
        """The process that the gateway has claimed, with the lines that it wrote so far. It is the caller's from now
        on. None if it is not here any more."""
        spare = self._spares.pop(uid, None)
        if spare is None:
            return None
        spare.following.cancel()
        self._pods.remove_spare(spare.pool, spare.process)
        self._fill_after(REFILL_AFTER, spare.pool)
        return spare.process, spare.output.take()

    async def stop(self) -> None:
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for spare in self._spares.values():
            self._end(spare)
        if following := [spare.following for spare in self._spares.values()]:
            await asyncio.wait(following)

    def kill(self) -> None:
        self._stopping = True
        for spare in self._spares.values():
            spare.process.kill()

    # -- inside

    def _fill_after(self, seconds: float, pool: PoolKey) -> None:
        if pool not in self._timers and not self._stopping and self._size:
            self._timers[pool] = asyncio.get_running_loop().call_later(seconds, self._fill, pool)

    def _fill(self, pool: PoolKey) -> None:
        del self._timers[pool]
        if self._stopping or pool not in self._wanted:
            return
        if self._is_busy():
            self._fill_after(REFILL_AFTER, pool)
            return
        present = sum(spare.pool == pool and not spare.process.stopping for spare in self._spares.values())
        for _ in range(self._size - present):
            self._launch(pool)

    def _launch(self, pool: PoolKey) -> None:
        namespace, runtime = pool
        name, uid = f"{pool_name(runtime)}-{next(self._numbers)}", str(uuid.uuid4())
        output = _HeldOutput(lambda line: self._console.line(name, line))
        process = self._new_process(name, self._state / namespace / name, output.add)
        process.start(launch.for_pool(runtime, uid, self._public_key()), lambda: self._listens(uid))
        following = asyncio.create_task(self._follow(uid, process), name=f"spare {name}")
        self._spares[uid] = _Spare(pool, process, output, following)

    def _listens(self, uid: str) -> None:
        spare = self._spares.get(uid)
        if spare is not None and not spare.process.stopping:
            self._pods.put_spare(spare.pool, uid, spare.process)

    async def _follow(self, uid: str, process: AgentProcess) -> None:
        """Until it has ended; cancelled when it is taken."""
        ending = await process.ended()
        spare = self._spares.pop(uid)
        self._pods.remove_spare(spare.pool, process)
        spare.output.flush()
        if not process.stopping:
            self._console.say(f"the spare process {process.name} {ending.how}; another one will replace it")
            self._fill_after(RETRY_AFTER, spare.pool)

    def _end(self, spare: _Spare) -> None:
        self._pods.remove_spare(spare.pool, spare.process)
        if not spare.process.stopping:
            spare.process.terminate(within=STOP_TIMEOUT)
