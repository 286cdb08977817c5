"""How many events of each function wait in the queue: written here by `events`, and reported as demand."""

from collections.abc import Mapping

from kappa_gateway.pods.state import FunctionState


class Backlog:
    """`backlog(function)` is the number; an estimate between two looks at the queue."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], int] = {}
        """By namespace and name."""

    def __call__(self, function: FunctionState) -> int:
        return self._waiting.get((function.namespace, function.name), 0)

    def accepted(self, namespace: str, name: str) -> None:
        """One more, until it is received or the queue reports its own number."""
        self._waiting[namespace, name] = self._waiting.get((namespace, name), 0) + 1

    def received(self, namespace: str, name: str, waiting: int) -> None:
        """Events were received, and so many were left."""
        self._waiting[namespace, name] = waiting

    def replace(self, waiting: Mapping[tuple[str, str], int]) -> None:
        """What the queue reports of all functions."""
        self._waiting = dict(waiting)
