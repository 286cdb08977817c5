"""A claim: one pool pod on its way to becoming a function's pod. Pure; the table below is its complete life cycle.

A gateway claims a free pool pod for a function and sends it the specialize request with the first invocation, whose
answer the pod returns. Later the platform shows the pod with the function's label: then it is a pod like any other.
"""

from enum import Enum
from typing import Final

from kappa_core.demand import Claim as ReportedClaim
from kappa_gateway.pods.platform import PoolPod


class ClaimState(Enum):
    CLAIMED = "claimed"
    """Nothing was sent yet: the pod's first request specializes it."""
    SENT = "sent"
    """The specialize request was sent; whether the pod took it is not known."""
    TAKEN = "taken"
    """The pod answered: it runs the function."""
    CONFIRMED = "confirmed"
    """The platform shows the pod as the function's."""
    RELEASED = "released"
    """It never became the function's pod, and may be free again."""
    LOST = "lost"
    """It left its pool and did not become the function's pod: it is gone."""


class ClaimEvent(Enum):
    SEND = "send"
    ACCEPT = "accept"
    """The answer to the specialize request came."""
    CONFIRM = "confirm"
    """The platform showed the pod as the function's."""
    RELEASE = "release"
    """The pod refused, could not be reached, or says that it has no function."""
    LOSE = "lose"
    """The pod left its pool, and was not shown as the function's in time."""


TRANSITIONS: Final = {
    (ClaimState.CLAIMED, ClaimEvent.SEND): ClaimState.SENT,
    (ClaimState.CLAIMED, ClaimEvent.RELEASE): ClaimState.RELEASED,
    (ClaimState.CLAIMED, ClaimEvent.CONFIRM): ClaimState.CONFIRMED,  # another gateway claimed it for the same function
    (ClaimState.CLAIMED, ClaimEvent.LOSE): ClaimState.LOST,
    (ClaimState.SENT, ClaimEvent.ACCEPT): ClaimState.TAKEN,
    (ClaimState.SENT, ClaimEvent.RELEASE): ClaimState.RELEASED,
    (ClaimState.SENT, ClaimEvent.CONFIRM): ClaimState.CONFIRMED,  # before the first answer, where that takes long
    (ClaimState.SENT, ClaimEvent.LOSE): ClaimState.LOST,
    (ClaimState.TAKEN, ClaimEvent.CONFIRM): ClaimState.CONFIRMED,
    (ClaimState.TAKEN, ClaimEvent.RELEASE): ClaimState.RELEASED,  # its container was started again
    (ClaimState.TAKEN, ClaimEvent.LOSE): ClaimState.LOST,
}
"""A pair that is missing here changes nothing, such as an answer that comes after the pod was confirmed or lost."""


class Claim:
    """`spec_hash` is that of the Function which the pod was specialized for, empty until then."""

    __slots__ = ("is_reported", "pod", "spec_hash", "state")

    def __init__(self, pod: PoolPod) -> None:
        self.pod = pod
        self.spec_hash = ""
        self.state = ClaimState.CLAIMED
        self.is_reported = False
        """Whether the operator was notified at once, ahead of the next full report."""

    def advance(self, event: ClaimEvent) -> bool:
        """Whether the event changed its state."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True

    @property
    def is_pending(self) -> bool:
        """Whether the platform has still to show the pod as the function's."""
        return self.state in (ClaimState.CLAIMED, ClaimState.SENT, ClaimState.TAKEN)

    def as_reported(self, function: str) -> ReportedClaim | None:
        """What a demand report says of it; None while nothing was sent to the pod, and once it is settled."""
        if self.state is not ClaimState.SENT and self.state is not ClaimState.TAKEN:
            return None
        return ReportedClaim(self.pod.namespace, function, self.pod.name, self.pod.uid, self.spec_hash)
