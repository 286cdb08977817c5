"""A thread with its own connection. Jobs that wait when it is free share one transaction, and one fsync."""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kappa_core.errors import KappaError
from kappa_gateway.queue.protocol import QueueUnavailable
from kappa_gateway.queue.sqlite.database import Database, inode, keeps_connection

logger = logging.getLogger(__name__)

T = TypeVar("T")
BATCH_JOBS: Final = 512
"""In one transaction: so that the first does not wait for thousands."""
MAX_PENDING: Final = 20_000
LOG_INTERVAL: Final = 30.0
"""Seconds until the same failure is logged again: on a full disk what is small may fit and what is large not."""


@dataclass(eq=False, slots=True)
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    committed: Callable[[Any], None] | None
    unwanted: Callable[[Any], None] | None
    result: Any = None
    error: Exception | None = None


class Worker:
    """Runs jobs in the order they came. A job is a function of the connection that can be run again, for its
    transaction may fail because of another job in it. It raises `KappaError` only before it changes anything.
    """

    def __init__(self, database: Database, *, writes: bool) -> None:
        self.failure: KappaError | None = None
        """Why the file cannot be used, as far as is known."""
        self._database = database
        self._writes = writes
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._logged: tuple[str, float] = ("", 0.0)
        """The last failure that was logged, and when."""

    # -- on the loop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        name = f"queue-{'writer' if self._writes else 'reader'}"
        threading.Thread(target=self._main, name=name, daemon=True).start()

    async def stop(self, timeout: float) -> None:
        """Runs the jobs that wait, then ends. `timeout` in seconds."""
        if self._ended is None or self._loop is None:
            return
        ended, self._loop = self._ended, None
        self._jobs.put(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.shield(ended)

    async def run(
        self,
        job: Callable[[sqlite3.Connection], T],
        *,
        timeout: float,
        committed: Callable[[T], None] | None = None,
        unwanted: Callable[[T], None] | None = None,
    ) -> T:
        """What `job` returns, once that is on the disk. `committed` gets it too, also when the caller was cancelled;
        `unwanted` gets it only then. Both run on the loop. Raises what the job raises, and `QueueUnavailable`."""
        future = self.submit(job, committed=committed, unwanted=unwanted)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except BaseException as error:
            # Cancelled in the moment after the answer came: then nobody else reports it.
            if future.done() and not future.cancelled() and future.exception() is None and unwanted is not None:
                unwanted(future.result())
            if isinstance(error, TimeoutError):
                raise QueueUnavailable(
                    f"the queue file {self._database.path} did not answer within {timeout:g} s: its disk is slow or "
                    "busy"
                ) from None
            raise

    def submit(
        self,
        job: Callable[[sqlite3.Connection], T],
        *,
        committed: Callable[[T], None] | None = None,
        unwanted: Callable[[T], None] | None = None,
    ) -> "asyncio.Future[T]":
        """As `run`, for callers that do not wait."""
        if self._loop is None:
            raise QueueUnavailable(
                f"the queue file {self._database.path} is not open: the gateway is starting or stopping"
            )
        if self._pending >= MAX_PENDING:
            raise QueueUnavailable(
                f"{self._pending} requests wait for the queue file {self._database.path}: its disk is too slow; "
                "send less, or later"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending += 1
        self._jobs.put(_Job(job, future, committed, unwanted))
        return future

    def _deliver(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            self._pending -= 1
            if job.error is not None:
                if not job.future.done():
                    job.future.set_exception(job.error)
                continue
            if job.committed is not None:
                job.committed(job.result)
            if not job.future.done():
                job.future.set_result(job.result)
            elif job.unwanted is not None:
                job.unwanted(job.result)

    # -- in the thread

    def _main(self) -> None:
        loop, ended = self._loop, self._ended
        assert loop is not None and ended is not None  # noqa: PT018
        stopping = False
        while not stopping:
            batch: list[_Job] = []
            with contextlib.suppress(queue.Empty):
                job = self._jobs.get()
                while job is not None and len(batch) < BATCH_JOBS - 1:
                    batch.append(job)
                    job = self._jobs.get_nowait()
                if job is None:
                    stopping = True
                else:
                    batch.append(job)
            self._work(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._deliver, batch)
        self._disconnect()
        if self._writes:
            self._database.unlock()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_end, ended)

    def _work(self, batch: list[_Job]) -> None:
        wanted = [job for job in batch if not job.future.cancelled()]
        for job in batch:
            if job.future.cancelled():
                job.error = QueueUnavailable("cancelled")
        if not wanted:
            return
        try:
            connection = self._connected()
        except (KappaError, OSError, sqlite3.Error) as error:
            message = str(self._failed(error))
            for job in wanted:
                job.error = QueueUnavailable(message)
            return
        try:
            self._transact(connection, wanted)
        except Exception as error:
            self._undo(error)
            if len(wanted) == 1:
                wanted[0].error = self._failed(error)
                return
            for job in wanted:  # one at a time: one that does not fit must not fail the others
                self._work([job])
        else:
            self.failure = None

    def _transact(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        connection.execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")
        for job in jobs:
            job.error = None
            try:
                job.result = job.run(connection)
            except KappaError as error:
                job.error = error
        connection.execute("COMMIT")

    def _undo(self, error: Exception) -> None:
        if self._connection is None:
            return
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()
        if isinstance(error, sqlite3.Error) and not keeps_connection(error):
            self._disconnect()

    def _failed(self, error: Exception) -> Exception:
        """The error for the caller; kept in `failure` if it is the file's."""
        if isinstance(error, OSError | sqlite3.Error):
            error = self._database.unavailable(error)
        if isinstance(error, KappaError):
            self.failure = error
            now = time.monotonic()
            if error.message != self._logged[0] or now > self._logged[1] + LOG_INTERVAL:
                logger.error("%s", error.message)
                self._logged = (error.message, now)
        return error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._inode != inode(self._database.path):
            # Removed or replaced while it was open: what is written to the old one would be lost.
            logger.error("the queue file %s was removed or replaced; what it held is gone", self._database.path)
            self._disconnect()
        if self._connection is None:
            self._connection = self._database.writing() if self._writes else self._database.reading()
            self._inode = inode(self._database.path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _end(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)
