"""Where local mode keeps files: the functions' task roots while it runs, and the queue of asynchronous invocations for
good."""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

PREFIX: Final = "kappa-local-"


def queue_file(paths: Sequence[Path]) -> Path:
    """The same file for the same manifests, so that the events of an earlier run are found: under
    `$XDG_STATE_HOME/kappa`, by default `~/.local/state/kappa`, named by the first path and a hash of all."""
    resolved = sorted(str(path.resolve()) for path in paths)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(resolved[0]).name).strip(".-")[:40] if resolved else ""
    digest = hashlib.sha256("\0".join(resolved).encode()).hexdigest()[:12]
    given = os.environ.get("XDG_STATE_HOME", "")
    # the XDG base directory specification says to ignore a relative path
    home = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return home / "kappa" / f"{name or 'functions'}-{digest}.sqlite"


class StateFolder:
    """A folder under the system's temporary one, locked while this process lives, removed at its end.

    A process that is killed leaves its folder behind. The next process that enters one removes it.
    """

    def __enter__(self) -> Path:
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_unused(folder)
        self._path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock: IO[bytes] = (self._path / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        self._lock.close()


def _remove_if_unused(folder: Path) -> None:
    # a folder in use is locked, and another user's cannot be opened
    with suppress(OSError), (folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
