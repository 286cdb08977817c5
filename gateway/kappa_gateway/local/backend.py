"""The gateway's backend in local mode: Functions from files, their pods as processes, both kept up to date."""

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kappa_core.demand import Claim, DemandReport
from kappa_gateway.pods.platform import Sink
from kappa_gateway.local import catalog
from kappa_gateway.local.catalog import Entry
from kappa_gateway.local.console import Console
from kappa_gateway.local.file_watch import FileWatch, Roots
from kappa_gateway.local.function_pods import FunctionPods, Surroundings
from kappa_gateway.local.manifests import Key, Manifests, NoSuchPath, read
from kappa_gateway.local.pools import LocalPools, PoolKey
from kappa_gateway.local.state_folder import StateFolder

log = logging.getLogger(__name__)

TICK: Final = 1.0
SETTLE: Final = 0.2
"""Seconds."""


class LocalBackend:
    """`run` serves what is under `paths`; `follow` brings the gateway's demand, without which nothing is scaled.

    `stop_grace` is how many seconds the processes have to finish what they have when the backend is told to stop.
    `pool_size` is how many spare processes each pool has, and `pool_key` gives the key that they trust.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        console: Console,
        *,
        keep_warm: float | None = None,
        region: str = "us-east-1",
        account: str = "000000000000",
        stop_grace: float = 5.0,
        pool_size: int = 0,
        pool_key: Callable[[], str] = str,
    ) -> None:
        self._paths = tuple(paths)
        self._console = console
        self._keep_warm = keep_warm
        self._region = region
        self._account = account
        self._stop_grace = stop_grace
        self._pool_size = pool_size
        self._pool_key = pool_key
        self._pools: LocalPools | None = None
        self._catalog: Mapping[Key, Entry] = {}
        self._functions: dict[Key, FunctionPods] = {}
        self._reported: set[str] = set()
        self._closing: dict[asyncio.Task[None], FunctionPods] = {}
        """Functions that were removed, whose processes still finish what they have."""
        self.loaded = asyncio.Event()
        """Set once the files were read for the first time."""

    @property
    def catalog(self) -> Mapping[Key, Entry]:
        return self._catalog

    async def run(self, sink: Sink) -> None:
        """Raises `manifests.NoSuchPath` if a path is not there at the start."""
        with StateFolder() as state:
            around = Surroundings(sink, self._console, state, self._region, self._account, self._keep_warm)
            if self._pool_size:
                self._pools = LocalPools(
                    sink,
                    self._console,
                    state,
                    size=self._pool_size,
                    public_key=self._pool_key,
                    is_busy=lambda: any(pods.is_starting for pods in self._functions.values()),
                )
            self._take(await asyncio.to_thread(read, self._paths), around)
            self.loaded.set()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._reload(around))
                    tasks.create_task(self._tick())
            finally:
                await self._stop()

    async def follow(self, reports: AsyncIterable[DemandReport]) -> None:
        """Scale by the gateway's demand, until its feed ends."""
        async for report in reports:
            for claim in report.claims:
                self._claimed(claim)
            demands = {(demand.namespace, demand.name): demand for demand in report.functions}
            for key, pods in self._functions.items():
                if report.full or key in demands:
                    pods.demand(demands.get(key))

    def _claimed(self, claim: Claim) -> None:
        pods = self._functions.get((claim.namespace, claim.function))
        if pods is None:
            # removed in this moment: its process ends as those of the others did
            pods = next((p for p in self._closing.values() if p.is_of(claim.namespace, claim.function)), None)
        if self._pools is not None and pods is not None:
            self._pools.hand_over(claim, pods)

    def kill(self) -> None:
        """End every process now, whatever it does."""
        self._stop_grace = 0.0
        if self._pools is not None:
            self._pools.kill()
        for pods in (*self._functions.values(), *self._closing.values()):
            pods.kill()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for pods in list(self._functions.values()):
                pods.tick()

    async def _reload(self, around: Surroundings) -> None:
        watch = FileWatch(
            lambda why: self._console.say(f"files cannot be watched ({why}): changes are served after a restart only")
        )
        try:
            while True:
                await watch.watch(self._roots())
                await watch.changed.wait()
                watch.changed.clear()
                known = {entry.path for entry in self._catalog.values()}
                try:
                    manifests = await asyncio.to_thread(read, self._paths, known)
                    if self._catalog.keys() - manifests.functions.keys():
                        # editors empty a file before they write it: what seems to be gone is looked for once more
                        await asyncio.sleep(SETTLE)
                        manifests = await asyncio.to_thread(read, self._paths, known)
                except NoSuchPath as error:
                    self._console.say(f"{error}; serving its functions as they were")
                    continue
                self._take(manifests, around)
        finally:
            await watch.close()

    def _roots(self) -> Roots:
        """The given paths, and the folders of ConfigMap code that lie outside of them."""
        folders = {path.resolve() for path in self._paths if path.is_dir()}
        files = {path.resolve() for path in self._paths if not path.is_dir()}
        for entry in self._catalog.values():
            code = entry.function.spec.code.config_map
            folder = entry.path.parent.resolve() / code.name if code else None
            if folder is not None and folder.is_dir() and not any(folder.is_relative_to(root) for root in folders):
                folders.add(folder)
        return Roots(frozenset(folders), frozenset(files))

    def _take(self, manifests: Manifests, around: Surroundings) -> None:
        """Make what is served what the files say."""
        first = not self.loaded.is_set()
        before, now = self._catalog, catalog.build(manifests, self._catalog)
        self._catalog = now
        self._report(manifests)
        if first:
            if manifests.left_out:
                kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifests.left_out.items()))
                self._console.say(f"left out, as only a cluster has a use for it: {kinds}")
            around.sink.replace_functions([entry.function for entry in now.values()])
            around.sink.replace_pods([])
        for key in before.keys() - now.keys():
            self._remove(key, around)
        for key, entry in now.items():
            if before.get(key) is not entry:
                self._put(key, entry, around, quiet=first)
        if self._pools is not None:
            self._pools.want({pool for entry in now.values() if (pool := _pool_of(entry)) is not None})

    def _put(self, key: Key, entry: Entry, around: Surroundings, *, quiet: bool) -> None:
        name = catalog.label(*key)
        self._console.know(name)
        pods = self._functions.get(key)
        if pods is None:
            pods = self._functions[key] = FunctionPods(name, entry.function, around)
            if not quiet:
                self._console.say(f"{name}: added ({entry.path})")
            pods.apply(entry.function, entry.workload)
            return
        replaces = pods.apply(entry.function, entry.workload)
        if entry.workload is not None:
            how = "a new process takes over from the old one" if replaces else "the next invocation runs it"
            self._console.say(f"{name}: changed; {how}")

    def _remove(self, key: Key, around: Surroundings) -> None:
        pods = self._functions.pop(key)
        around.sink.remove_function(*key)
        self._console.say(f"{catalog.label(*key)}: removed")
        task = asyncio.create_task(pods.stop(), name=f"stop {pods.label}")
        self._closing[task] = pods
        task.add_done_callback(self._closing.pop)

    def _report(self, manifests: Manifests) -> None:
        """Say each problem and remark once, and again if it comes back."""
        wrong = [str(problem) for problem in manifests.problems]
        texts = [*wrong, *catalog.remarks(self._catalog)]
        for text in texts:
            if text not in self._reported:
                self._console.say(text)
        self._reported = set(texts)

    async def _stop(self) -> None:
        """Every process gets to finish what it has, for `stop_grace` seconds, then all are killed."""
        stops = [asyncio.create_task(pods.stop()) for pods in self._functions.values()] + list(self._closing)
        if self._pools is not None:
            stops.append(asyncio.create_task(self._pools.stop()))
        if not stops:
            return
        _, running = await asyncio.wait(stops, timeout=self._stop_grace)
        if running:
            self.kill()
            await asyncio.wait(running, timeout=2)


def _pool_of(entry: Entry) -> PoolKey | None:
    """The pool that a cold start of this function uses."""
    way = entry.function.status.cold_start
    if entry.workload is None or way is None or way.path != "Pool":
        return None
    return entry.function.metadata.namespace, entry.function.spec.runtime or ""
