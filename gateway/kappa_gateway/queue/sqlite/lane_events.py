"""Statements on events: functions of a connection that is in a transaction, run by `worker`."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from kappa_core.event import Event, Kind, Lane
from kappa_gateway.queue.protocol import EventLease, LaneState, QueueFull

COUNTED: Final = 10_000
"""At most so many of a lane's leased and delayed events are counted in a `receive`: more are rare, and cost time."""
PURGE_EVENTS: Final = 1000
"""In one transaction, so that others get their turn."""


@dataclass(frozen=True, slots=True)
class Held:
    """A lease's token: the event, and which of its deliveries this is."""

    seq: int
    receive_count: int
    due_before: float


@dataclass(frozen=True, slots=True)
class Received:
    leases: list[EventLease]
    next_due: float | None
    """Seconds since the epoch; None: no event of the lane will become due as time passes."""


def enqueue(
    connection: sqlite3.Connection, event: Event, attributes: str, now: float, window: float, max_bytes: int
) -> bool:
    """`attributes`: as JSON. `max_bytes` of the lane; 0: no limit. Raises `QueueFull`."""
    lane = event.lane
    row = _lane(connection, lane)
    size = len(event.payload) + len(attributes)
    if row is not None:
        seen = connection.execute(
            "SELECT came_at, seq FROM ids WHERE lane = ? AND id = ?", (row[0], event.id)
        ).fetchone()
        if seen is not None and (seen[1] is not None or now < seen[0] + window):
            return False
    if max_bytes and (row[1] if row else 0) + size > max_bytes:
        raise QueueFull(
            f"the queue of {lane.namespace}/{lane.function} holds its {max_bytes} bytes (queue_max_bytes): send later"
        )
    if row is None:
        number = connection.execute(
            "INSERT INTO lanes (kind, namespace, function) VALUES (?, ?, ?)",
            (lane.kind.value, lane.namespace, lane.function),
        ).lastrowid
    else:
        number = row[0]
    seq = connection.execute(
        "INSERT INTO events (lane, id, received_at, keyed, bytes) VALUES (?, ?, ?, ?, ?)",
        (number, event.id, event.received_at, event.keyed, size),
    ).lastrowid
    connection.execute("INSERT INTO bodies VALUES (?, ?, ?)", (seq, attributes, event.payload))
    connection.execute("INSERT OR REPLACE INTO ids VALUES (?, ?, ?, ?)", (number, event.id, now, seq))
    connection.execute("UPDATE lanes SET events = events + 1, bytes = bytes + ? WHERE lane = ?", (size, number))
    return True


def receive(connection: sqlite3.Connection, lane: Lane, count: int, now: float, lease: float) -> Received:
    """Retries that are due first, then events that were never delivered."""
    row = _lane(connection, lane)
    if row is None:
        return Received([], None)
    number = row[0]
    fields = "seq, id, received_at, keyed, receive_count, due_at"
    found = connection.execute(
        f"SELECT {fields} FROM events WHERE lane = ? AND due_at > 0 AND due_at <= ? ORDER BY due_at, seq LIMIT ?",
        (number, now, count),
    ).fetchall()
    found += connection.execute(
        f"SELECT {fields} FROM events WHERE lane = ? AND due_at = 0 ORDER BY seq LIMIT ?", (number, count - len(found))
    ).fetchall()
    if not found:
        due = connection.execute("SELECT min(due_at) FROM events WHERE lane = ? AND due_at > 0", (number,)).fetchone()[
            0
        ]
        return Received([], due)
    connection.executemany(
        "UPDATE events SET due_at = ?, receive_count = receive_count + 1, held = 1 WHERE seq = ?",
        [(now + lease, seq) for seq, *_ in found],
    )
    waiting = _waiting(connection, number, now)
    leases = []
    for seq, event_id, received_at, keyed, receive_count, due_at in found:
        attributes, payload = connection.execute(
            "SELECT attributes, payload FROM bodies WHERE seq = ?", (seq,)
        ).fetchone()
        event = Event(event_id, lane, payload, received_at, json.loads(attributes), bool(keyed))
        fresh = receive_count == 0 and not _has_record(connection, lane, event_id)
        leases.append(EventLease(event, receive_count + 1, fresh, waiting, token=Held(seq, receive_count + 1, due_at)))
    return Received(leases, None)


def undo_receive(connection: sqlite3.Connection, held: Iterable[Held]) -> None:
    """As if they had not been delivered: nobody has seen them."""
    connection.executemany(
        "UPDATE events SET due_at = ?, receive_count = receive_count - 1, held = 0 "
        "WHERE seq = ? AND receive_count = ? AND held",
        [(one.due_before, one.seq, one.receive_count) for one in held],
    )


def extend(connection: sqlite3.Connection, held: Iterable[Held], until: float) -> None:
    connection.executemany(
        "UPDATE events SET due_at = ? WHERE seq = ? AND receive_count = ? AND held",
        [(until, one.seq, one.receive_count) for one in held],
    )


def nack(connection: sqlite3.Connection, held: Held, due_at: float) -> None:
    """Does nothing if the lease expired and the event was delivered again."""
    connection.execute(
        "UPDATE events SET due_at = ?, held = 0 WHERE seq = ? AND receive_count = ? AND held",
        (due_at, held.seq, held.receive_count),
    )


def ack(connection: sqlite3.Connection, held: Held, now: float, window: float) -> None:
    """Whoever holds it by now: its function has ended."""
    row = connection.execute("SELECT lane, id, bytes FROM events WHERE seq = ?", (held.seq,)).fetchone()
    if row is not None:
        _remove(connection, row[0], [(held.seq, row[1], row[2])], now - window)


def last_seq(connection: sqlite3.Connection, lane: Lane) -> int:
    """The newest event's; 0: the lane is empty."""
    row = _lane(connection, lane)
    if row is None:
        return 0
    return connection.execute("SELECT max(seq) FROM events WHERE lane = ?", (row[0],)).fetchone()[0] or 0


def purge(connection: sqlite3.Connection, lane: Lane, up_to: int, now: float, window: float) -> int:
    """Removes some of them, at most `PURGE_EVENTS`, and returns how many; 0: none is left."""
    row = _lane(connection, lane)
    if row is None:
        return 0
    found = connection.execute(
        "SELECT seq, id, bytes FROM events WHERE lane = ? AND seq <= ? ORDER BY seq LIMIT ?",
        (row[0], up_to, PURGE_EVENTS),
    ).fetchall()
    _remove(connection, row[0], found, now - window)
    return len(found)


def forget(connection: sqlite3.Connection, lane: Lane) -> bool:
    """Deletes the ids and the row of a lane that was purged. False: there is more to delete."""
    row = _lane(connection, lane)
    if row is None:
        return True
    connection.execute(
        "DELETE FROM ids WHERE lane = ? AND id IN (SELECT id FROM ids WHERE lane = ? AND seq IS NULL LIMIT ?)",
        (row[0], row[0], PURGE_EVENTS),
    )
    if connection.execute("SELECT 1 FROM ids WHERE lane = ? AND seq IS NULL LIMIT 1", (row[0],)).fetchone():
        return False
    connection.execute("DELETE FROM lanes WHERE lane = ? AND events = 0", (row[0],))
    return True


# -- reading


def lanes(connection: sqlite3.Connection, now: float) -> list[LaneState]:
    states = []
    rows = connection.execute("SELECT lane, kind, namespace, function, events FROM lanes WHERE events > 0").fetchall()
    for number, kind, namespace, function, total in rows:
        held = connection.execute(
            "SELECT count(*) FROM events WHERE lane = ? AND due_at > ?", (number, now)
        ).fetchone()[0]
        oldest = connection.execute(
            "SELECT received_at FROM events WHERE lane = ? ORDER BY seq LIMIT 1", (number,)
        ).fetchone()
        states.append(
            LaneState(Lane(Kind(kind), namespace, function), total - held, held, oldest[0] if oldest else None)
        )
    return states


def find(connection: sqlite3.Connection, lane: Lane, event_id: str) -> Event | None:
    found = _events(
        connection, lane, "seq = (SELECT seq FROM ids WHERE ids.lane = events.lane AND ids.id = ?)", (event_id,), 1
    )
    return found[0] if found else None


def events(connection: sqlite3.Connection, lane: Lane, limit: int, after: str | None) -> list[Event]:
    if after is None:
        return _events(connection, lane, "seq > 0", (), limit)
    start = "seq > coalesce((SELECT seq FROM ids WHERE ids.lane = events.lane AND ids.id = ?), 0)"
    return _events(connection, lane, start, (after,), limit)


def _events(connection: sqlite3.Connection, lane: Lane, where: str, values: tuple[Any, ...], limit: int) -> list[Event]:
    row = _lane(connection, lane)
    if row is None:
        return []
    rows = connection.execute(
        f"SELECT id, received_at, keyed, attributes, payload FROM events JOIN bodies USING (seq) "
        f"WHERE lane = ? AND {where} ORDER BY seq LIMIT ?",
        (row[0], *values, limit),
    )
    return [
        Event(event_id, lane, payload, received_at, json.loads(attributes), bool(keyed))
        for event_id, received_at, keyed, attributes, payload in rows
    ]


# -- housekeeping


def forget_ids(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Deletes those of ended events that came before then; returns how many."""
    return connection.execute(
        "DELETE FROM ids WHERE (lane, id) IN (SELECT lane, id FROM ids WHERE seq IS NULL AND came_at < ? LIMIT ?)",
        (before, limit),
    ).rowcount


def _lane(connection: sqlite3.Connection, lane: Lane) -> tuple[int, int] | None:
    """Its number and bytes."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT lane, bytes FROM lanes WHERE kind = ? AND namespace = ? AND function = ?",
        (lane.kind.value, lane.namespace, lane.function),
    ).fetchone()
    return row


def _waiting(connection: sqlite3.Connection, number: int, now: float) -> int:
    total = connection.execute("SELECT events FROM lanes WHERE lane = ?", (number,)).fetchone()[0]
    held = _count(connection, "SELECT 1 FROM events WHERE lane = ? AND due_at > ?", (number, now))
    if held < COUNTED:
        return int(total) - held
    return _count(connection, "SELECT 1 FROM events WHERE lane = ? AND due_at <= ?", (number, now))


def _count(connection: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> int:
    return int(connection.execute(f"SELECT count(*) FROM ({query} LIMIT {COUNTED})", values).fetchone()[0])


def _has_record(connection: sqlite3.Connection, lane: Lane, event_id: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM records WHERE namespace = ? AND function = ? AND id = ?",
        (lane.namespace, lane.function, event_id),
    ).fetchone()
    return found is not None


def _remove(
    connection: sqlite3.Connection, number: int, found: list[tuple[int, str, int]], forget_before: float
) -> None:
    """`found`: seq, id and bytes. Their ids stay for the deduplication window."""
    seqs = [(seq,) for seq, *_ in found]
    connection.executemany("DELETE FROM events WHERE seq = ?", seqs)
    connection.executemany("DELETE FROM bodies WHERE seq = ?", seqs)
    for _, event_id, _ in found:
        connection.execute(
            "DELETE FROM ids WHERE lane = ? AND id = ? AND came_at < ?", (number, event_id, forget_before)
        )
        connection.execute("UPDATE ids SET seq = NULL WHERE lane = ? AND id = ?", (number, event_id))
    connection.execute(
        "UPDATE lanes SET events = events - ?, bytes = bytes - ? WHERE lane = ?",
        (len(found), sum(size for *_, size in found), number),
    )
