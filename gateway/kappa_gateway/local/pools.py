"""Warm pools of local mode: for each runtime that a function can start from, a spare process that is no function's yet.

The gateway makes one a function's in the first request to it, as in a cluster, and says so in its demand feed; then the
process goes over to that function's `FunctionPods`, and another spare one is started.
"""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from kappa_core.agent_config import PoolConfig
from kappa_core.demand import Claim
from kappa_core.names import pool_name
from kappa_gateway.backend import PoolPod, Sink
from kappa_gateway.local.console import Console
from kappa_gateway.local.function_pods import FunctionPods, ending
from kappa_gateway.local.process import AgentProcess

log = logging.getLogger(__name__)

FIRST_AFTER: Final = 0.5
"""Seconds after the functions are there: what is asked for at once had better have the processors."""
REFILL_AFTER: Final = 0.25
"""Seconds after a spare process was taken, for the same reason."""
RETRY_AFTER: Final = 5.0
"""Seconds after one that ended by itself."""
MAX_POOLS: Final = 8
_HELD_LINES: Final = 1000
"""Lines that a process may write before it is known whose they are."""
_HELD_SECONDS: Final = 1.0
PoolKey = tuple[str, str]
"""(namespace, runtime)"""


class LocalPools:
    """`size` spare processes for each pool that `want` names; `public_key` is asked for when the first one starts.

    None starts while `is_busy` says that a function's own process does, which somebody waits for.
    """

    def __init__(
        self,
        sink: Sink,
        console: Console,
        state: Path,
        *,
        size: int,
        public_key: Callable[[], str],
        is_busy: Callable[[], bool],
    ) -> None:
        self._sink = sink
        self._console = console
        self._state = state
        self._size = size
        self._public_key = public_key
        self._is_busy = is_busy
        self._wanted: frozenset[PoolKey] = frozenset()
        self._spares: dict[str, _Spare] = {}
        """By pod uid."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[PoolKey, asyncio.TimerHandle] = {}
        self._numbers = itertools.count(1)
        self._started = False
        self._stopping = False

    def want(self, pools: Collection[PoolKey]) -> None:
        """The pools that some function can use now."""
        self._wanted = frozenset(sorted(pools)[:MAX_POOLS])
        for spare in list(self._spares.values()):
            if spare.key not in self._wanted:
                self._end(spare)
        after, self._started = (0.0 if self._started else FIRST_AFTER), True
        for key in self._wanted:
            self._fill_later(key, after)

    def hand_over(self, claim: Claim, pods: FunctionPods) -> None:
        """The gateway has made a spare process this function's."""
        spare = self._spares.pop(claim.pod_uid, None)
        if spare is None:
            return
        self._sink.remove_pool_pod(spare.key[0], spare.process.name)
        assert spare.task is not None
        self._tasks.discard(spare.task)
        lines, spare.lines = spare.lines, []
        spare.owner = pods
        pods.adopt(spare.process, claim.spec_hash, spare.task)
        for line in lines:
            spare.process.on_line(line)
        self._fill_later(spare.key, REFILL_AFTER)

    async def stop(self) -> None:
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for spare in list(self._spares.values()):
            self._end(spare)
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def kill(self) -> None:
        self._stopping = True
        for spare in self._spares.values():
            spare.process.stopping = True
            spare.process.kill()

    # -- inside

    def _fill_later(self, key: PoolKey, after: float) -> None:
        if key not in self._timers and not self._stopping:
            self._timers[key] = asyncio.get_running_loop().call_later(after, self._fill, key)

    def _fill(self, key: PoolKey) -> None:
        self._timers.pop(key, None)
        if self._stopping or key not in self._wanted:
            return
        if self._is_busy():
            self._fill_later(key, REFILL_AFTER)
            return
        there = sum(spare.key == key and not spare.process.stopping for spare in self._spares.values())
        for _ in range(self._size - there):
            self._launch(key)

    def _launch(self, key: PoolKey) -> None:
        namespace, runtime = key
        name = f"{pool_name(runtime)}-{next(self._numbers)}"
        spare = _Spare(key, str(uuid.uuid4()))
        spare.process = AgentProcess(name, None, self._state / namespace / name, self._hold(spare))
        self._spares[spare.uid] = spare
        spare.task = asyncio.create_task(self._live(spare), name=f"pool {name}")
        self._tasks.add(spare.task)
        spare.task.add_done_callback(self._ended)

    async def _live(self, spare: "_Spare") -> None:
        """A process from its start to its end, whosever it is by then."""
        process, (namespace, runtime) = spare.process, spare.key
        started = time.monotonic()
        config = PoolConfig(
            pool_public_key=self._public_key(),
            pod_uid=spare.uid,
            runtime=runtime,
            host="127.0.0.1",
            port=0,
            runtime_api_port=0,
            parent_death=True,
        )
        try:
            await process.spawn(config)
            pump = asyncio.create_task(process.pump())
            port = await process.listening()
            if port is None:
                process.kill()
            elif not process.stopping:
                self._sink.put_pool_pod(
                    PoolPod(namespace, runtime, process.name, spare.uid, "127.0.0.1", port, process.started_at)
                )
            how = ending(await pump, listened=port is not None)
        except (OSError, ValueError) as error:
            how = f"could not be started: {error}"
        finally:
            self._spares.pop(spare.uid, None)
            if spare.owner is None:
                self._sink.remove_pool_pod(namespace, process.name)
        if spare.owner is not None:
            spare.owner.ended(process, how, time.monotonic() - started)
            return
        self._say(spare)
        if not process.stopping:
            self._console.say(f"the spare process {process.name} {how}; another one follows")
            self._fill_later(spare.key, RETRY_AFTER)

    def _end(self, spare: "_Spare") -> None:
        self._sink.remove_pool_pod(spare.key[0], spare.process.name)
        if not spare.process.stopping:
            spare.process.terminate()
            asyncio.get_running_loop().call_later(2.0, spare.process.kill)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a bug in local mode", exc_info=task.exception())

    def _hold(self, spare: "_Spare") -> Callable[[str], None]:
        """What a function writes in its first invocation comes a moment before it is known whose process it is."""

        def hold(line: str) -> None:
            if not spare.lines:
                asyncio.get_running_loop().call_later(_HELD_SECONDS, self._say, spare)
            spare.lines.append(line)
            if len(spare.lines) > _HELD_LINES:
                self._say(spare)

        return hold

    def _say(self, spare: "_Spare") -> None:
        lines, spare.lines = spare.lines, []
        for line in lines:
            self._console.line(spare.process.name, line)


class _Spare:
    __slots__ = ("key", "lines", "owner", "process", "task", "uid")
    process: AgentProcess

    def __init__(self, key: PoolKey, uid: str) -> None:
        self.key = key
        self.uid = uid
        self.lines: list[str] = []
        self.owner: FunctionPods | None = None
        self.task: asyncio.Task[None] | None = None
