"""The folder for what local mode keeps while it runs: the functions' task roots."""

import fcntl
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

PREFIX: Final = "kappa-local-"


class StateFolder:
    """A folder under the system's temporary one, locked while this process lives, removed at its end.

    A process that is killed leaves its folder behind; the next one to enter removes it.
    """

    def __enter__(self) -> Path:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_left(left)
        self._path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock: IO[bytes] = (self._path / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        self._lock.close()


def _remove_if_left(folder: Path) -> None:
    # one in use is locked, and somebody else's cannot be opened
    with suppress(OSError), (folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
