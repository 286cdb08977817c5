"""Background work: deleting what is past its retention, freeing space, testing a file that failed."""

import sqlite3
from dataclasses import dataclass
from typing import Final

from kappa_gateway.queue.sqlite import lane_events, outcomes
from kappa_gateway.queue.sqlite.schema import VERSION

PROBE_INTERVAL: Final = 1.0
"""Seconds between two tests of a file that cannot be used."""
PAUSE: Final = 0.05
"""Seconds between two transactions of a long clean-up: others get the disk meanwhile."""
LONGEST_INTERVAL: Final = 10.0
ROWS: Final = 500
FREE_PAGES: Final = 1000
"""Freed pages that the file may keep for later use; beyond a quarter of the file, more are returned to the disk."""


def probe(connection: sqlite3.Connection) -> None:
    """Writes without changing anything, so that a full disk is noticed."""
    connection.execute(f"PRAGMA user_version = {VERSION}")


@dataclass(frozen=True, slots=True)
class Retentions:
    """Seconds that things are kept."""

    window: float
    result: float
    dead_letter: float

    @property
    def interval(self) -> float:
        """Seconds between two clean-ups."""
        return min(LONGEST_INTERVAL, self.window / 2, self.result / 2, self.dead_letter / 2)

    def forget_some(self, connection: sqlite3.Connection, now: float) -> bool:
        """Whether there is more to delete."""
        forgotten = (
            lane_events.forget_ids(connection, now - self.window, ROWS),
            outcomes.forget_records(connection, True, now - self.result, ROWS),
            outcomes.forget_records(connection, False, now - outcomes.PROGRESS_RETENTION, ROWS),
            outcomes.forget_dead(connection, now - self.dead_letter, ROWS),
        )
        return self._free_space(connection) or ROWS in forgotten

    def _free_space(self, connection: sqlite3.Connection) -> bool:
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
        if free <= FREE_PAGES or free * 4 <= connection.execute("PRAGMA page_count").fetchone()[0]:
            return False
        for _ in range(ROWS):  # one by one: the sqlite3 module takes a single step of a statement without columns
            connection.execute("PRAGMA incremental_vacuum(1)")
        return True
