"""Sets an event when watched files change."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import watchfiles

from kappa_cli.local.manifests.reading import SKIPPED_FOLDERS

logger = logging.getLogger(__name__)

DEBOUNCE_MS: Final = 100
"""An editor writes a file in several steps. Steps within this time are one change."""


@dataclass(frozen=True, slots=True)
class Roots:
    """`folders` are watched with everything in them, `files` one by one."""

    folders: frozenset[Path]
    files: frozenset[Path]


class FileWatch:
    """`changed` is set by any change under the roots. `on_refused` is called when the system refuses to watch them."""

    def __init__(self, on_refused: Callable[[str], None]) -> None:
        self.changed = asyncio.Event()
        self._on_refused = on_refused
        self._roots: Roots | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def watch(self, roots: Roots) -> None:
        """Watch these from now on, and no others. `changed` is set once, for what changed before the watch began."""
        if roots == self._roots:
            return
        self._roots = roots
        self._cancel()
        if roots.folders:
            self._start(roots.folders, _Filter(), recursive=True)
        # a file is watched through its folder: editors replace it with a new one
        for parent in {file.parent for file in roots.files}:
            self._start({parent}, _Only(roots.files), recursive=False)
        await asyncio.sleep(0)  # each task runs once, and awatch opens the system's watch
        self.changed.set()

    async def close(self) -> None:
        tasks = list(self._tasks)
        self._cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, paths: Collection[Path], only: watchfiles.BaseFilter, *, recursive: bool) -> None:
        self._tasks.append(asyncio.create_task(self._follow(paths, only, recursive=recursive), name="file watch"))

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def _follow(self, paths: Collection[Path], only: watchfiles.BaseFilter, *, recursive: bool) -> None:
        try:
            async for changes in watchfiles.awatch(
                *paths, watch_filter=only, debounce=DEBOUNCE_MS, step=30, recursive=recursive
            ):
                logger.debug("files changed", extra={"files": sorted(path for _, path in changes)})
                self.changed.set()
        except (OSError, RuntimeError) as error:  # RuntimeError: the watcher's own
            self._on_refused(str(error))


class _Filter(watchfiles.DefaultFilter):
    ignore_dirs = (*watchfiles.DefaultFilter.ignore_dirs, *SKIPPED_FOLDERS)


class _Only(watchfiles.BaseFilter):
    def __init__(self, files: Collection[Path]) -> None:
        super().__init__()
        self._files = {str(file) for file in files}

    def __call__(self, change: watchfiles.Change, path: str) -> bool:
        return path in self._files
