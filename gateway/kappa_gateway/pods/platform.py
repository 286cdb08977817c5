"""The platform as the gateway sees it: functions and pods, reported by a backend (Kubernetes, or local processes).

A `Backend` runs for as long as the gateway and reports what it sees to the `Sink`. Every method of the sink is
synchronous, cheap and idempotent, and is called on the gateway's event loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kappa_core.function import Function


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a function, as the platform sees it."""

    namespace: str
    name: str
    function: str
    """The Function's name; its namespace is the pod's."""
    host: str | None
    """IP address; None until it is known."""
    port: int
    concurrency: int
    """Invocations it takes at once."""
    protocol: Literal["lambda", "http"]
    terminating: bool = False
    created_at: float | None = None
    """Seconds since the epoch, where known: for the phases of a cold start."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds since the epoch of what is known of its start: `created`, `scheduled`, `started` (its container runs)."""


@dataclass(frozen=True, slots=True)
class PoolPod:
    """A pod of a warm pool that has no function yet, as the platform sees it."""

    namespace: str
    runtime: str
    name: str
    uid: str
    """The specialize request is signed for this pod alone."""
    host: str | None
    """IP address; None until it is known."""
    port: int
    created_at: float | None = None
    """Seconds since the epoch, where known."""
    leaving: bool = False
    """Its pool shrinks, and the platform is about to delete it: it must no longer be claimed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway of this installation, this one included."""

    name: str
    host: str | None
    """IP address; None until it is known."""


class Sink(Protocol):
    """What a backend reports to: the gateway's registry."""

    def replace_functions(self, functions: Iterable[Function]) -> None:
        """The first list, and every list after a lost watch: a function that is not in it is gone."""

    def put_function(self, function: Function) -> None:
        """A function was created or changed."""

    def remove_function(self, namespace: str, name: str) -> None:
        """A function was deleted."""

    def replace_pods(self, pods: Iterable[Pod]) -> None:
        """The first list, and every list after a lost watch: a pod that is not in it is gone."""

    def put_pod(self, pod: Pod) -> None:
        """A pod was created or changed."""

    def remove_pod(self, namespace: str, name: str) -> None:
        """A pod is gone."""

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        """As `replace_pods`. A backend without pools never calls it."""

    def put_pool_pod(self, pod: PoolPod) -> None:
        """A pool pod was created or changed."""

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        """A pool pod is gone, or belongs to a function now, or is about to end."""

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        """All gateways that may claim pool pods. A backend that never calls it has this gateway alone."""


class Backend(Protocol):
    """Where functions and pods come from."""

    async def run(self, sink: Sink) -> None:
        """Report everything to `sink`, until cancelled. The backend itself reconnects where it has to."""
