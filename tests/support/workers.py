"""How pytest's worker processes coordinate, by locking files: exclusive turns, and work that is done once for all
workers."""

import fcntl
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from pathlib import Path


class Use(Enum):
    SHARED = "shared"
    ALONE = "alone"


class Turn:
    """A worker's turn with something that several workers may share or one may have exclusively. First come, first
    served."""

    def __init__(self, folder: Path, what: str) -> None:
        self._door, self._room = folder / f"{what}.door", folder / f"{what}.room"
        self._taken = ExitStack()
        self._use: Use | None = None

    def take(self, use: Use | None) -> None:
        """Wait until it is this worker's turn. Returns at once if the worker already has it for the same use. None
        releases the turn."""
        if use == self._use:
            return
        self.end()
        if use is None:
            return
        door, room = (self._taken.enter_context(file.open("a")) for file in (self._door, self._room))
        # A worker that waits for an exclusive turn holds the door, so that no further sharers enter.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if use is Use.ALONE else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        self._use = use

    def end(self) -> None:
        self._taken.close()
        self._use = None


def once(folder: Path, name: str, do: Callable[[], str]) -> str:
    """What `do` returned in the first worker that asked. Raises AssertionError in the others if it failed there."""
    with (folder / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / f"{name}.done"
        if done.exists():
            return done.read_text()
        failed = folder / f"{name}.failed"
        assert not failed.exists(), f"another worker failed to make the {name}"
        try:
            result = do()
        except BaseException:
            failed.touch()
            raise
        done.write_text(result)
        return result
