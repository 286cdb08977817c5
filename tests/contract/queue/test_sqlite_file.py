"""The SQLite queue's file: who may open it, what goes wrong with it, and what is forgotten in it."""

# ruff: noqa: ASYNC240 - the event loop of a test may wait for a small file

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import queue_worker
from queue_contract import (
    LANE,
    OTHER_LANE,
    Backend,
    Queues,
    a_dead_event,
    a_record,
    an_event,
    enqueue_many,
    ids_of,
    make,
    opened,
    receive_one,
    receive_some,
)
from waiting import eventually

from kappa_core.event import Status
from kappa_gateway.queue.factory import make_queue, sqlite_url
from kappa_gateway.queue.protocol import QueueMisconfigured, QueueUnavailable
from kappa_gateway.queue.sqlite import housekeeping, worker
from kappa_gateway.queue.sqlite.queue import SqliteQueue, path_of
from kappa_gateway.queue.sqlite.schema import VERSION
from kappa_gateway.settings import Settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def queues(path: Path) -> AsyncIterator[Queues]:
    async with opened(Backend("sqlite", {"queue_url": sqlite_url(path)}, shared=False)) as found:
        yield found


@contextlib.asynccontextmanager
async def not_well(path: Path, **settings: float) -> AsyncIterator[SqliteQueue]:
    """A queue whose file need not be usable."""
    queue = make({"queue_url": sqlite_url(path)}, dict(settings))
    assert isinstance(queue, SqliteQueue)
    try:
        await queue.open()
        yield queue
    finally:
        await queue.close()


def rows(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# -- which file


@pytest.mark.parametrize("name", ["queue.db", "with space.db", "50%.db", "ü?#.db"])
def test_a_url_names_its_file(tmp_path: Path, name: str) -> None:
    url = sqlite_url(tmp_path / name)
    assert path_of(Settings(queue_url=url).queue_url) == tmp_path / name


@pytest.mark.parametrize("url", ["sqlite:/var/q.db", "sqlite://var/q.db", "sqlite:///var/q.db"])
def test_more_slashes_name_the_same_file(url: str) -> None:
    assert path_of(url) == Path("/var/q.db")


def test_without_a_queue_url_there_is_no_queue() -> None:
    assert make_queue(Settings(queue_url="")) is None


async def test_nobody_else_can_read_the_file(queues: Queues, path: Path) -> None:
    queue = await queues.open()
    await queue.enqueue(an_event())
    assert [oct(file.stat().st_mode & 0o777) for file in path.parent.glob("queue.db*")] == ["0o600"] * 4


async def test_each_commit_is_synced(queues: Queues) -> None:
    queue = await queues.open()
    assert isinstance(queue, SqliteQueue)

    def pragmas(connection: sqlite3.Connection) -> list[object]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await queue._write(pragmas) == ["wal", 2]


# -- one process


async def test_a_second_gateway_is_refused(queues: Queues, path: Path) -> None:
    first = await queues.open()
    second = queues.make()
    with pytest.raises(QueueMisconfigured, match=rf"{path} is in use by another process \(pid {os.getpid()}\)"):
        await second.open()
    with pytest.raises(QueueUnavailable):
        await second.enqueue(an_event())
    assert await first.enqueue(an_event())
    await queues.reopen(first)


async def test_a_process_that_was_killed_leaves_no_lock(queues: Queues, path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, queue_worker.__file__, json.dumps(queues.backend.options), "{}", "1"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline()
        with pytest.raises(QueueMisconfigured, match=f"pid {process.pid}"):
            await queues.make().open()
    finally:
        process.kill()
        await process.communicate()
    await queues.open()


# -- files that cannot be used


async def test_a_newer_file_is_refused_and_left_alone(queues: Queues, path: Path) -> None:
    queue = await queues.open()
    await queues.close(queue)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(QueueMisconfigured, match=f"{path} was written by a newer Kappa .*run that version again"):
        await queues.make().open()
    assert path.read_bytes() == before


async def test_another_programs_database_is_refused_and_left_alone(queues: Queues, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE accounts (name)")
    before = path.read_bytes()
    with pytest.raises(QueueMisconfigured, match=f"{path} is an SQLite database, and not one of Kappa's queue"):
        await queues.make().open()
    assert path.read_bytes() == before


async def test_a_damaged_file_is_reported_and_can_be_moved_away(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"this is no database, " * 1000)
    async with not_well(path) as queue:
        assert not queue.available
        with pytest.raises(QueueUnavailable, match=r"queue\.db is damaged.*\.recover.*move it away"):
            await queue.enqueue(an_event())
        with pytest.raises(QueueUnavailable, match="is damaged"):
            await queue.events(LANE, limit=1)
        assert sum(record.levelno == logging.ERROR for record in caplog.records) <= 2, "said once for each thread"
        path.rename(path.with_suffix(".damaged"))
        await eventually(lambda: queue.available, "the queue with a new file")
        assert await queue.enqueue(an_event())


async def test_damage_that_shows_later_is_reported(queues: Queues, path: Path) -> None:
    queue = await queues.open()
    for _ in range(30):
        await queue.enqueue(an_event(payload=os.urandom(20_000)))
    await queues.close(queue)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    async with not_well(path) as broken:
        with pytest.raises(QueueUnavailable, match="is damaged"):
            await broken.enqueue(an_event())
        with pytest.raises(QueueUnavailable, match="is damaged"):
            await broken.lanes()


async def test_a_folder_that_cannot_be_used_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.write_text("a file in the way")
    async with not_well(folder / "queue.db") as queue:
        with pytest.raises(QueueUnavailable, match=r"folder .*/folder must exist and be writable for user id \d+"):
            await queue.enqueue(an_event())
        folder.unlink()
        await eventually(lambda: queue.available, "the queue in its new folder")
        assert await queue.enqueue(an_event())


async def test_a_full_disk_is_reported_and_recovered_from(queues: Queues, path: Path) -> None:
    queue = await queues.open()
    assert isinstance(queue, SqliteQueue)
    await enqueue_many(queue, 3)

    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await queue._write(lambda connection: limit(connection, 60))
    big = [an_event(payload=b"x" * 100_000) for _ in range(5)]
    results = await asyncio.gather(
        *(queue.enqueue(event) for event in big), queue.enqueue(an_event("small")), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, QueueUnavailable)]
    assert len(refused) >= 3
    assert "the disk is full: free some space" in refused[0].message
    assert results[-1] is True, "what fits is taken, whatever came with it"
    with pytest.raises(QueueUnavailable):
        await queue.enqueue(an_event(payload=b"x" * 300_000))
    assert not queue.available
    await queue.ack(await receive_one(queue))
    await queue._write(lambda connection: limit(connection, 1_000_000))
    await eventually(lambda: queue.available, "the queue with space again")
    assert await queue.enqueue(an_event(payload=b"x" * 300_000))
    taken = ids_of([event for event, result in zip(big, results, strict=False) if result is True])
    assert set(taken) <= set(ids_of(await queue.events(LANE, limit=100)))


async def test_a_file_that_is_removed_is_created_again(queues: Queues, path: Path) -> None:
    queue = await queues.open()
    await enqueue_many(queue, 3)
    for file in path.parent.glob("queue.db*"):
        file.unlink()
    assert await queue.enqueue(an_event("new"))
    assert ids_of(await queue.events(LANE, limit=10)) == ["new"]
    queue = await queues.reopen(queue)
    assert ids_of(await queue.events(LANE, limit=10)) == ["new"], "it is in the file"


async def test_another_programs_transaction_is_said_and_waited_out(path: Path) -> None:
    async with not_well(path, queue_timeout=2.0) as queue:
        assert await queue.enqueue(an_event())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueUnavailable, match=r"is locked .*another program|did not answer within 2 s"):
                await queue.enqueue(an_event())
            assert len(await queue.events(LANE, limit=10)) == 1, "it can be read"
        await eventually(lambda: queue.available, "the queue without the other program")
        assert await queue.enqueue(an_event())


async def test_a_queue_that_is_not_open_says_so(queues: Queues) -> None:
    queue = queues.make()
    assert not queue.available
    with pytest.raises(QueueUnavailable, match="is not open"):
        await queue.enqueue(an_event())
    await queue.close()
    queue = await queues.open()
    waiting = asyncio.create_task(queue.receive(LANE, 1, 60.0))
    await asyncio.sleep(0.01)
    await queues.close(queue)
    with pytest.raises(QueueUnavailable, match="is not open"):
        await asyncio.wait_for(waiting, 30.0)


async def test_what_waits_for_the_file_is_bounded(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = await queues.open()
    monkeypatch.setattr(worker, "MAX_PENDING", 50)
    results = await asyncio.gather(*(queue.enqueue(an_event()) for _ in range(200)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, QueueUnavailable)]
    assert len(refused) == 150
    assert "its disk is too slow" in refused[0].message
    assert await queue.enqueue(an_event()), "and there is room again"


async def test_one_job_that_fails_does_not_take_others_along(queues: Queues) -> None:
    queue = await queues.open()
    assert isinstance(queue, SqliteQueue)

    def bug(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO ids VALUES (7, 'half done', 0, NULL)")
        raise ZeroDivisionError

    results = await asyncio.gather(
        queue.enqueue(an_event("one")), queue._write(bug), queue.enqueue(an_event("two")), return_exceptions=True
    )
    assert results[0] is results[2] is True
    assert isinstance(results[1], ZeroDivisionError)
    assert ids_of(await queue.events(LANE, limit=10)) == ["one", "two"]
    assert queue.available
    assert await queue._read(lambda connection: connection.execute("SELECT * FROM ids WHERE lane = 7").fetchall()) == []


# -- what is forgotten


async def test_what_is_past_its_time_leaves_the_file(queues: Queues, path: Path) -> None:
    short = {"queue_deduplication_window": 0.4, "result_retention": 0.4, "dead_letter_retention": 0.4}
    queue = await queues.open(**short)
    await enqueue_many(queue, 5)
    await enqueue_many(queue, 2, OTHER_LANE, "mail")
    for lease in await receive_some(queue, 4):
        await queue.ack(lease)
        await queue.save_record(a_record(lease.event.id, Status.SUCCEEDED))
        await queue.dead_letter(a_dead_event(lease.event))
    await queue.save_record(a_record("going on"))
    await eventually(
        lambda: (rows(path, "ids"), rows(path, "records"), rows(path, "dead")) == (3, 1, 0), "a clean file"
    )
    assert ids_of(await queue.events(LANE, limit=10)) == ["event-0004"]


async def test_free_space_is_returned_to_the_disk(queues: Queues, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "FREE_PAGES", 50)
    queue = await queues.open(queue_deduplication_window=0.2)
    await asyncio.gather(*(queue.enqueue(an_event(payload=b"x" * 100_000)) for _ in range(50)))
    assert isinstance(queue, SqliteQueue)

    async def pages() -> int:
        found = await queue._read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        return int(found)

    # before the purge: housekeeping may give pages back as soon as they are free
    assert await pages() > 1000
    await queue.purge(LANE)
    deadline = time.monotonic() + 30.0
    while (left := await pages()) > 100:
        assert time.monotonic() < deadline, f"{left} pages are left"
    await queues.close(queue)
    assert path.stat().st_size < 1_000_000


async def test_a_dropped_lane_leaves_nothing(queues: Queues, path: Path) -> None:
    queue = await queues.open()
    await enqueue_many(queue, 5)
    await queue.ack(await receive_one(queue))
    await queue.drop_lane(LANE)
    assert [rows(path, table) for table in ("lanes", "events", "bodies", "ids")] == [0, 0, 0, 0]
