"""What goes on in the background: forgetting what is past its time, giving space back, trying a file that failed."""

import sqlite3
import time
from dataclasses import dataclass
from typing import Final

from kappa_gateway.queue.sqlite import lane_events, outcomes
from kappa_gateway.queue.sqlite.schema import VERSION

PROBE_INTERVAL: Final = 1.0
"""Seconds between two looks at a file that cannot be used."""
PAUSE: Final = 0.05
"""Seconds between two transactions of a long clean-up: others get the disk meanwhile."""
LONGEST_INTERVAL: Final = 10.0
ROWS: Final = 500
FREE_PAGES: Final = 1000
"""Freed pages that the file may keep for what comes next; beyond a quarter of it, more are given back."""


def probe(connection: sqlite3.Connection) -> None:
    """Writes, so that a full disk shows; changes nothing."""
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

    def forget_some(self, connection: sqlite3.Connection) -> bool:
        """Whether there is more to forget."""
        now = time.time()
        forgotten = (
            lane_events.forget_ids(connection, now - self.window, ROWS),
            outcomes.forget_records(connection, True, now - self.result, ROWS),
            outcomes.forget_records(connection, False, now - outcomes.PROGRESS_RETENTION, ROWS),
            outcomes.forget_dead(connection, now - self.dead_letter, ROWS),
        )
        return self._give_space_back(connection) or ROWS in forgotten

    def _give_space_back(self, connection: sqlite3.Connection) -> bool:
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
        if free <= FREE_PAGES or free * 4 <= connection.execute("PRAGMA page_count").fetchone()[0]:
            return False
        for _ in range(ROWS):  # one by one: the sqlite3 module takes a single step of a statement without columns
            connection.execute("PRAGMA incremental_vacuum(1)")
        return True
