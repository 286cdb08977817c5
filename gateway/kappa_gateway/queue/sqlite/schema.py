"""The tables. A change to them is a new `VERSION` and a step in `database`."""

from typing import Final

APPLICATION_ID: Final = 0x4B415041
"""'KAPA', in the file's header: so that no other program's database is taken for a queue."""
VERSION: Final = 1

TABLES: Final = """
-- Counts are kept, for counting a million rows at each `take` would be slow.
CREATE TABLE lanes (
    lane INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, namespace TEXT NOT NULL, function TEXT NOT NULL,
    events INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, namespace, function)
);

-- AUTOINCREMENT: a lease names its event by `seq`, which must never be another event's later.
-- due_at: 0 for an event that was never delivered; else when it can be received (the lease's end, or the retry's time).
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lane INTEGER NOT NULL, id TEXT NOT NULL, received_at REAL NOT NULL, keyed INTEGER NOT NULL, bytes INTEGER NOT NULL,
    due_at REAL NOT NULL DEFAULT 0,
    receive_count INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX events_due ON events (lane, due_at, seq);
CREATE INDEX events_order ON events (lane, seq);

-- Apart from `events`, so that the delivery of an event of 1 MiB does not write 1 MiB.
CREATE TABLE bodies (seq INTEGER PRIMARY KEY, attributes TEXT NOT NULL, payload BLOB NOT NULL);

-- Every id that is in its lane (with its seq), or came within the deduplication window.
CREATE TABLE ids (
    lane INTEGER NOT NULL, id TEXT NOT NULL, came_at REAL NOT NULL, seq INTEGER, PRIMARY KEY (lane, id)
) WITHOUT ROWID;
CREATE INDEX ids_ended ON ids (came_at) WHERE seq IS NULL;

CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL, function TEXT NOT NULL, id TEXT NOT NULL,
    final INTEGER NOT NULL, updated_at REAL NOT NULL, saved_at REAL NOT NULL, body BLOB NOT NULL,
    UNIQUE (namespace, function, id)
);
CREATE INDEX records_newest ON records (namespace, function, updated_at);
CREATE INDEX records_age ON records (final, saved_at);

CREATE TABLE dead (
    number INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL, function TEXT NOT NULL, id TEXT NOT NULL,
    kind TEXT NOT NULL, received_at REAL NOT NULL, keyed INTEGER NOT NULL,
    condition TEXT NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL, died_at REAL NOT NULL,
    saved_at REAL NOT NULL, attributes TEXT NOT NULL, payload BLOB NOT NULL,
    UNIQUE (namespace, function, id)
);
CREATE INDEX dead_newest ON dead (namespace, function, died_at);
CREATE INDEX dead_age ON dead (saved_at);
"""
