"""Streams, subjects and consumers by name. Pure.

| stream | subjects | holds |
| --- | --- | --- |
| `<prefix>_<kind>_<namespace>_<function>` | `<prefix>.<kind>.<namespace>.<function>.<id>` | a lane's events |
| `<prefix>_records` | `<prefix>.record.<namespace>.<function>.<id>` | final records |
| `<prefix>_progress` | `<prefix>.progress.<namespace>.<function>.<id>` | records that are not final |
| | `<prefix>.server.<server>` | when servers were first seen |
| `<prefix>_dead` | `<prefix>.dead.<namespace>.<function>.<id>` | the dead letter |

Stream names may have no dots, and neither the prefix nor a namespace or a Function's name has an underscore, so names
can be parsed.
"""

import re
from typing import Final

from kappa_core.errors import InvalidRequest
from kappa_core.event import Kind, Lane

CONSUMER: Final = "dispatch"
"""The one durable consumer of each lane."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


def is_id(text: str) -> bool:
    """Whether it can be an event's id. No stream holds a subject with anything else (wildcards, dots, spaces)."""
    return _ID.match(text) is not None


def is_name(text: str) -> bool:
    """Whether it can be a namespace's or a Function's name."""
    return _TOKEN.match(text) is not None


class Names:
    def __init__(self, prefix: str) -> None:
        self.prefix: Final = prefix
        self.records: Final = f"{prefix}_records"
        self.progress: Final = f"{prefix}_progress"
        self.dead: Final = f"{prefix}_dead"

    def stream(self, lane: Lane) -> str:
        return f"{self.prefix}_{lane.kind.value}_{lane.namespace}_{lane.function}"

    def lane(self, stream: str) -> Lane | None:
        """The lane of a stream's name; None if it is not the stream of a lane with this prefix."""
        parts = stream.split("_")
        if len(parts) != 4 or parts[0] != self.prefix or not all(parts):
            return None
        try:
            return Lane(Kind(parts[1]), parts[2], parts[3])
        except ValueError:
            return None

    @property
    def all_subjects(self) -> str:
        """Covers the subjects of every stream of this prefix."""
        return f"{self.prefix}.>"

    def event(self, lane: Lane, event_id: str) -> str:
        """This and those below raise `InvalidRequest` for what makes no subject. `event_id` None: a function's all."""
        return self._subject(lane.kind.value, lane.namespace, lane.function, event_id)

    def events(self, lane: Lane) -> str:
        return self._subject(lane.kind.value, lane.namespace, lane.function, None)

    def record(self, namespace: str, function: str, event_id: str | None) -> str:
        return self._subject("record", namespace, function, event_id)

    def in_progress(self, namespace: str, function: str, event_id: str | None) -> str:
        return self._subject("progress", namespace, function, event_id)

    def dead_event(self, namespace: str, function: str, event_id: str | None) -> str:
        return self._subject("dead", namespace, function, event_id)

    def mark(self, server_id: str) -> str:
        """Where the time is noted at which a server was first seen, see `memory`."""
        return f"{self.prefix}.server.{server_id}"

    def _subject(self, what: str, namespace: str, function: str, event_id: str | None) -> str:
        if not is_name(namespace) or not is_name(function) or not (event_id is None or is_id(event_id)):
            raise InvalidRequest(
                f"no event can be called {event_id!r} of function {function!r} in namespace {namespace!r}: "
                "names are DNS labels, and ids are letters, digits, - and _, at most 128"
            )
        return f"{self.prefix}.{what}.{namespace}.{function}.{event_id or '*'}"
