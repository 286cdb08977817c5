"""What a source of warm pods offers the dispatcher for a function whose requests wait."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kappa_core.metrics import ColdStartReason
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState, PodState


@dataclass(frozen=True, slots=True)
class Offer:
    pods: tuple[PodState, ...] = ()
    """Pods that were claimed for the function. They take a request at once."""
    reason: ColdStartReason = ColdStartReason.NOT_ELIGIBLE
    """Why there are not more."""
    peer: Peer | None = None
    """The gateway that claims pods for this function, where it is another one."""
    pass_on: int = 0
    """How many of the requests that wait should be passed on to it."""
    look_again: float | None = None
    """Seconds after which the offer may change even if nothing happens."""


class Source(Protocol):
    def subscribe(self, listener: Callable[[str, str], None]) -> None:
        """`listener(namespace, runtime)` is called when there is more to offer to the functions of that runtime."""

    def offer(self, function: FunctionState) -> Offer:
        """For a function that has requests waiting. What is offered is taken."""


class NoWarmPods:
    """The source of an installation without pools."""

    def subscribe(self, listener: Callable[[str, str], None]) -> None:
        """Never called."""

    def offer(self, function: FunctionState) -> Offer:
        return Offer()
