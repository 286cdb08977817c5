"""A runtime process's life as a table of transitions.

    STOPPED --start--> STARTING --asked--> IDLE --taken--> BUSY --answered--> RETURNING --asked--> IDLE

RETURNING has answered and not asked for more yet. A process whose start failed is started again by the next invocation
only, so broken code burns no CPU; one that ended on an invocation is started again at once.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    Table = Mapping[tuple[str, str], str]
    """(state, event) → the state that follows."""


class State:
    """Plain strings: `enum` would cost every cold start milliseconds."""

    STOPPED = "stopped"
    """There is no process; an invocation starts one."""
    FETCHING = "fetching"
    """A process fetches the function's archive."""
    STARTING = "starting"
    IDLE = "idle"
    """It waits for an invocation."""
    BUSY = "busy"
    RETURNING = "returning"
    """It has answered."""
    LOST = "lost"
    """It was idle, and its connection broke: it asks again, or its exit is noticed."""
    RESTARTING = "restarting"
    """It was killed, and is started again."""
    ENDING = "ending"
    """Its start failed: its exit is waited for."""
    FAILED = "failed"
    """Its start failed, and somebody else starts it again (a sidecar)."""
    CLOSING = "closing"
    """The agent ends: nothing is started any more."""


class Event:
    START = "start"
    FETCH = "fetch"
    FETCHED = "fetched"
    ASKED = "asked"
    """It asks for an invocation."""
    TAKEN = "taken"
    """It gets one."""
    ANSWERED = "answered"
    """The invocation has its answer, from the process or from the platform."""
    OVERDUE = "overdue"
    """What was bounded by a timer took too long."""
    START_FAILED = "start_failed"
    DISCONNECTED = "disconnected"
    """The connection with which it asks is lost."""
    ENDED = "ended"
    """The process has ended."""
    CLOSE = "close"


_COMMON: Final[Table] = {
    (State.STOPPED, Event.START): State.STARTING,
    (State.STARTING, Event.ASKED): State.IDLE,
    (State.IDLE, Event.ASKED): State.IDLE,  # over another connection
    (State.IDLE, Event.TAKEN): State.BUSY,
    (State.IDLE, Event.DISCONNECTED): State.LOST,
    (State.BUSY, Event.ANSWERED): State.RETURNING,
    (State.RETURNING, Event.ASKED): State.IDLE,
    (State.LOST, Event.ASKED): State.IDLE,
}
_CLOSING: Final[Table] = {
    **{(state, Event.CLOSE): State.CLOSING for name, state in vars(State).items() if name.isupper()},
    **{(State.CLOSING, event): State.CLOSING for event in (Event.ENDED, Event.ANSWERED)},
}

OWN: Final[Table] = {
    **_COMMON,
    **_CLOSING,
    (State.STOPPED, Event.FETCH): State.FETCHING,
    (State.FETCHING, Event.FETCHED): State.STARTING,
    (State.FETCHING, Event.START_FAILED): State.ENDING,
    (State.STARTING, Event.START_FAILED): State.ENDING,
    # once more, within an invocation
    (State.STARTING, Event.OVERDUE): State.RESTARTING,
    (State.RETURNING, Event.OVERDUE): State.RESTARTING,
    (State.LOST, Event.OVERDUE): State.RESTARTING,
    (State.RESTARTING, Event.ENDED): State.STARTING,
    # it never learnt which function it has
    (State.STARTING, Event.ENDED): State.STARTING,
    # on an invocation, or soon after one
    (State.RETURNING, Event.ENDED): State.STARTING,
    # with nothing to do: it waits for the next invocation, or it could end and start for ever
    (State.IDLE, Event.ENDED): State.STOPPED,
    (State.LOST, Event.ENDED): State.STOPPED,
    (State.ENDING, Event.ENDED): State.STOPPED,
}
"""Of a process that the agent starts and whose exit it notices."""

SIDECAR: Final[Table] = {
    **_COMMON,
    **_CLOSING,
    (State.STARTING, Event.OVERDUE): State.STARTING,
    (State.STARTING, Event.START_FAILED): State.FAILED,
    (State.FAILED, Event.START_FAILED): State.FAILED,
    (State.FAILED, Event.ASKED): State.IDLE,
    # the kubelet starts its container again
    (State.RETURNING, Event.OVERDUE): State.STARTING,
    (State.RETURNING, Event.ENDED): State.STARTING,
    (State.LOST, Event.ENDED): State.STARTING,
}
"""Of a process in another container, which the kubelet starts."""

UP: Final = frozenset((State.IDLE, State.BUSY, State.RETURNING, State.LOST))
"""States of a process whose start has succeeded."""
COMING: Final = frozenset(
    (
        *(State.FETCHING, State.STARTING, State.FAILED),
        *(State.RETURNING, State.LOST),
        *(State.RESTARTING, State.ENDING),
    )
)
"""States from which a process comes to take an invocation by itself, or fails one."""
