"""One pool pod that was claimed for a function: where its way to being that function's pod stands."""

from enum import Enum
from typing import TYPE_CHECKING, Final

from kappa_core.demand import Claim as ToldClaim
from kappa_gateway.backend import PoolPod

if TYPE_CHECKING:
    from kappa_gateway.upstream import Pool


CONNECT_TIMEOUT: Final = 0.25
"""Seconds in which a pool pod must take a connection: it did a moment ago, and there are others."""


class Stage(Enum):
    CLAIMED = "claimed"
    """It is nobody's yet: its first request makes it the function's."""
    SENT = "sent"
    """That request was sent; whether the pod took it is not known."""
    DONE = "done"
    """It is an ordinary pod of the function."""


class Claim:
    __slots__ = ("borrowed", "confirmed", "pod", "pool", "spec_hash", "stage", "told")

    def __init__(self, pod: PoolPod, spec_hash: str, pool: "Pool") -> None:
        self.pod = pod
        self.spec_hash = spec_hash
        self.pool = pool
        """The connections that were kept to it."""
        self.stage = Stage.CLAIMED
        self.borrowed = False
        """Another gateway lent its place, and counts it."""
        self.told = False
        """The operator was told at once."""
        self.confirmed = False
        """The platform shows the pod as the function's."""

    def as_told(self, function: str) -> ToldClaim:
        return ToldClaim(self.pod.namespace, function, self.pod.name, self.pod.uid, self.spec_hash)
