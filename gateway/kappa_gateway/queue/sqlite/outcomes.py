"""Statements on records and dead events: functions of a connection that is in a transaction, run by `worker`."""

import json
import math
import sqlite3
from typing import Any, Final

from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane, Record

PROGRESS_RETENTION: Final = 2 * 86400.0
"""Seconds that a record which is not final is kept: far longer than the longest time between two tries."""
_DEAD: Final = (
    "namespace, function, id, kind, received_at, keyed, condition, attempts, error, died_at, "
    "saved_at, attributes, payload"
)


def save_record(connection: sqlite3.Connection, record: Record, body: bytes, now: float) -> None:
    """`body`: the encoded record."""
    key = (record.namespace, record.function, record.id)
    if not record.status.final:
        ended = connection.execute(
            "SELECT body FROM records WHERE namespace = ? AND function = ? AND id = ? AND final", key
        ).fetchone()
        if ended is not None and Record.decode(ended[0]).received_at >= record.received_at:
            return
    connection.execute(
        "INSERT INTO records (namespace, function, id, final, updated_at, saved_at, body) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (namespace, function, id) DO UPDATE SET final = excluded.final, updated_at = excluded.updated_at, "
        "saved_at = excluded.saved_at, body = excluded.body",
        (*key, record.status.final, record.updated_at, now, body),
    )


def record(connection: sqlite3.Connection, namespace: str, function: str, event_id: str, since: float) -> Record | None:
    row = connection.execute(
        "SELECT body FROM records WHERE namespace = ? AND function = ? AND id = ? AND (NOT final OR saved_at > ?)",
        (namespace, function, event_id, since),
    ).fetchone()
    return Record.decode(row[0]) if row else None


def records(connection: sqlite3.Connection, namespace: str, function: str, limit: int, since: float) -> list[Record]:
    rows = connection.execute(
        "SELECT body FROM records WHERE namespace = ? AND function = ? AND (NOT final OR saved_at > ?) "
        "ORDER BY updated_at DESC, number DESC LIMIT ?",
        (namespace, function, since, limit),
    )
    return [Record.decode(body) for (body,) in rows]


def dead_letter(connection: sqlite3.Connection, dead: DeadEvent, attributes: str, error: str, now: float) -> None:
    """`attributes` and `error`: as JSON."""
    event, lane = dead.event, dead.event.lane
    connection.execute(
        f"INSERT OR REPLACE INTO dead ({_DEAD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(lane.namespace, lane.function, event.id, lane.kind.value, event.received_at, event.keyed),
            *(dead.condition.value, dead.attempts, error, dead.died_at, now, attributes, event.payload),
        ),
    )


def dead_event(
    connection: sqlite3.Connection, namespace: str, function: str, event_id: str, since: float
) -> DeadEvent | None:
    row = connection.execute(
        f"SELECT {_DEAD} FROM dead WHERE namespace = ? AND function = ? AND id = ? AND saved_at > ?",
        (namespace, function, event_id, since),
    ).fetchone()
    return _dead(row) if row else None


def dead_events(
    connection: sqlite3.Connection, namespace: str, function: str, limit: int, since: float, until: float | None
) -> list[DeadEvent]:
    rows = connection.execute(
        f"SELECT {_DEAD} FROM dead WHERE namespace = ? AND function = ? AND saved_at > ? AND died_at <= ? "
        "ORDER BY died_at DESC, number DESC LIMIT ?",
        (namespace, function, since, math.inf if until is None else until, limit),
    )
    return [_dead(row) for row in rows]


def delete_dead_event(
    connection: sqlite3.Connection, namespace: str, function: str, event_id: str, since: float
) -> bool:
    return bool(
        connection.execute(
            "DELETE FROM dead WHERE namespace = ? AND function = ? AND id = ? AND saved_at > ?",
            (namespace, function, event_id, since),
        ).rowcount
    )


# -- housekeeping


def forget_records(connection: sqlite3.Connection, final: bool, before: float, limit: int) -> int:
    return connection.execute(
        "DELETE FROM records WHERE number IN (SELECT number FROM records WHERE final = ? AND saved_at < ? LIMIT ?)",
        (final, before, limit),
    ).rowcount


def forget_dead(connection: sqlite3.Connection, before: float, limit: int) -> int:
    return connection.execute(
        "DELETE FROM dead WHERE number IN (SELECT number FROM dead WHERE saved_at < ? LIMIT ?)", (before, limit)
    ).rowcount


def _dead(row: tuple[Any, ...]) -> DeadEvent:
    namespace, function, event_id, kind, received_at, keyed, condition, attempts, error, died_at, *rest = row
    _saved_at, attributes, payload = rest
    lane = Lane(Kind(kind), namespace, function)
    event = Event(event_id, lane, payload, received_at, json.loads(attributes), bool(keyed))
    return DeadEvent(event, Condition(condition), attempts, json.loads(error), died_at)
