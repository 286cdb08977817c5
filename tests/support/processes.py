"""What pytest's worker processes agree on, by files that they lock: who is alone, and what is done once for all of them."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Either any number of workers share something, or one has it to itself. Who comes first gets it first."""

    def __init__(self, folder: Path, what: str) -> None:
        self._door, self._room = folder / f"{what}.door", folder / f"{what}.room"

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._door.open("a") as door, self._room.open("a") as room:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Those who come later wait at the door, so those who share cannot keep this one out."""
        with self._door.open("a") as door, self._room.open("a") as room:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX)
            yield


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
