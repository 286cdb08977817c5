"""The queue's file: its lock, its schema, and error messages for people."""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from kappa_gateway.queue.protocol import QueueMisconfigured, QueueUnavailable
from kappa_gateway.queue.sqlite.schema import APPLICATION_ID, TABLES, VERSION

CHECKPOINT_PAGES: Final = 4000
"""16 MiB of log before it is copied into the file, which costs two more fsyncs."""
KEPT_LOG_BYTES: Final = 64 * 1024 * 1024
CACHE_KIB: Final = 16 * 1024


class Database:
    """A file and the lock beside it. One thread calls `lock`, `writing` and `unlock`; any calls the rest."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        """Seconds to wait for a program that has the file open beside us, such as the sqlite3 shell."""
        self._lock_file: int | None = None

    def lock(self) -> None:
        """One process per file: counts and notifications are in its memory. The lock ends with the process, however it
        dies. Raises `QueueMisconfigured` where another process has it."""
        lock_path = Path(f"{self.path}.lock")
        if self._lock_file is not None:
            if inode(lock_path) == inode(self._lock_file):
                return
            self.unlock()  # the lock's file was removed, so another process would not see it
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise QueueMisconfigured(
                f"the queue file {self.path} is in use by another process{f' (pid {holder})' if holder else ''}: "
                "stop that one, or name another file; several gateways together need a NATS server as their queue"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):  # a full disk: the pid is for messages only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock_file = descriptor

    def unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def writing(self) -> sqlite3.Connection:
        """Creates the file if it is missing. Raises `QueueMisconfigured`, `OSError`, `sqlite3.Error`."""
        self.lock()
        # Payloads are private. The log and the index get the file's own mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = self._connect()
        try:
            self._check(connection)
            # FULL: in WAL mode the log is synced at each commit, not only at checkpoints
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {KEPT_LOG_BYTES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def reading(self) -> sqlite3.Connection:
        """After `writing`. Raises `sqlite3.Error`."""
        connection = self._connect()
        try:
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a file that somebody removed is not created again here, without its tables.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=self._timeout, isolation_level=None
        )
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        empty = _pragma(connection, "schema_version") == 0
        if application != APPLICATION_ID and not (empty and application == 0 and version == 0):
            raise QueueMisconfigured(
                f"{self.path} is an SQLite database, and not one of Kappa's queue: name another file; "
                "it was not touched"
            )
        if version > VERSION:
            raise QueueMisconfigured(
                f"the queue file {self.path} was written by a newer Kappa (format {version}; this one knows "
                f"{VERSION}): run that version again, or name another file for this one; it was not touched"
            )
        if empty:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        if version < VERSION:
            connection.executescript(
                f"BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {VERSION}; COMMIT;"
            )

    # -- errors

    def unavailable(self, error: OSError | sqlite3.Error) -> QueueUnavailable:
        """What happened, where, and how to fix it."""
        return QueueUnavailable(f"the queue file {self.path} {self._reason(error)}")

    def _reason(self, error: OSError | sqlite3.Error) -> str:
        if isinstance(error, OSError):
            return f"cannot be used ({error.strerror or error}): {_folder_hint(self.path)}"
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case sqlite3.SQLITE_FULL:
                return (
                    "cannot grow because the disk is full: free some space; the queue then continues without a restart"
                )
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return (
                    f"is damaged, or is not an SQLite file ({error}): stop Kappa and save its events with "
                    f"`sqlite3 {self.path} .recover | sqlite3 NEW-FILE`, or move it away together with "
                    f"{self.path.name}-wal and begin with an empty one"
                )
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return f"cannot be written ({error}): {_folder_hint(self.path)}"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return (
                    f"is locked ({error}): another program, such as the sqlite3 shell, has a transaction open in it; "
                    "end that"
                )
            case sqlite3.SQLITE_IOERR:
                return (
                    f"cannot be read or written ({error}): look at the disk's health and its free space; "
                    "the queue continues without a restart once that is fixed"
                )
            case _:
                return f"refused what was asked ({error})"


def keeps_connection(error: Exception) -> bool:
    """Whether a connection is as good as before after this error."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT)


def inode(file: Path | int) -> tuple[int, int] | None:
    """The file that is at a path now, or open; None if no file is there."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _folder_hint(path: Path) -> str:
    return f"it and its folder {path.parent} must exist and be writable for user id {os.geteuid()}"
