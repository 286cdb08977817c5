"""The gateway's backend in local mode: reads the files, and again whenever they change."""

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kappa_cli.local.console import Console
from kappa_cli.local.manifests.catalog import Entry
from kappa_cli.local.manifests.file_watch import FileWatch, Roots
from kappa_cli.local.manifests.reading import Key, NoSuchPath, read
from kappa_cli.local.processes.function_processes import Shared
from kappa_cli.local.processes.pods import Pods, Sink
from kappa_cli.local.served import ServedFunctions
from kappa_cli.local.state_folder import StateFolder
from kappa_core.demand import DemandReport

TICK: Final = 1.0
"""Seconds between looks at what scaling decides."""
SETTLE: Final = 0.2
"""Seconds after which a Function that seems to be gone is looked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    paths: Sequence[Path]
    region: str
    account: str
    keep_warm: float | None
    """Seconds, instead of every Function's own."""
    stop_grace: float
    """Seconds that processes have to finish their invocations when the backend stops."""
    spare_processes: int
    """For each pool."""
    public_key: Callable[[], str]
    """The key that spare processes trust."""


class LocalBackend:
    """`run` serves the files' functions; `follow` takes the gateway's demand, without which nothing is scaled."""

    def __init__(self, options: BackendOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._stop_grace = options.stop_grace
        self._served: asyncio.Future[ServedFunctions] = asyncio.get_running_loop().create_future()
        """Done once `run` has read the files."""

    @property
    def catalog(self) -> Mapping[Key, Entry]:
        return self._served.result().catalog if self._served.done() else {}

    async def run(self, sink: Sink) -> None:
        """Raises `NoSuchPath` if a path does not exist at the start."""
        with StateFolder() as state:
            options = self._options
            shared = Shared(Pods(sink), self._console, state, options.region, options.account, options.keep_warm)
            served = ServedFunctions(shared, spare_processes=options.spare_processes, public_key=options.public_key)
            served.apply(await asyncio.to_thread(read, options.paths))
            self._served.set_result(served)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._reload(served))
                    tasks.create_task(_tick(served))
            finally:
                await served.stop(self._stop_grace)

    async def follow(self, reports: AsyncIterable[DemandReport]) -> None:
        """Scale by the gateway's demand, until its feed ends."""
        served = await asyncio.shield(self._served)
        async for report in reports:
            served.scale(report)

    def kill(self) -> None:
        """End every process now."""
        self._stop_grace = 0.0
        if self._served.done():
            self._served.result().kill()

    async def _reload(self, served: ServedFunctions) -> None:
        watch = FileWatch(
            lambda why: self._console.say(f"files cannot be watched ({why}): changes need a restart of kappa local up")
        )
        try:
            while True:
                await watch.watch(self._roots(served.catalog))
                await watch.changed.wait()
                watch.changed.clear()
                known = {entry.path for entry in served.catalog.values()}
                try:
                    manifests = await asyncio.to_thread(read, self._options.paths, known)
                    if served.catalog.keys() - manifests.functions.keys():
                        # editors empty a file before they write it, so a Function that is gone is looked for again
                        await asyncio.sleep(SETTLE)
                        manifests = await asyncio.to_thread(read, self._options.paths, known)
                except NoSuchPath as error:
                    self._console.say(f"{error}; its functions are served as they were")
                    continue
                served.apply(manifests)
        finally:
            await watch.close()

    def _roots(self, catalog: Mapping[Key, Entry]) -> Roots:
        """The given paths, and the folders with ConfigMap code that lie outside of them."""
        folders = {path.resolve() for path in self._options.paths if path.is_dir()}
        files = {path.resolve() for path in self._options.paths if not path.is_dir()}
        for entry in catalog.values():
            code = entry.function.spec.code.config_map
            folder = entry.path.parent.resolve() / code.name if code else None
            if folder is not None and folder.is_dir() and not any(folder.is_relative_to(root) for root in folders):
                folders.add(folder)
        return Roots(frozenset(folders), frozenset(files))


async def _tick(served: ServedFunctions) -> None:
    while True:
        await asyncio.sleep(TICK)
        served.tick()
