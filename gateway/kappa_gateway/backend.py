"""What the gateway knows of its platform: pods and functions, told by a backend (Kubernetes, or local processes).

A `Backend` runs for as long as the gateway and tells the `Sink` what it sees. Every method of the sink is synchronous,
cheap and idempotent, and is called on the gateway's event loop.
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
    ready: bool = False
    """The platform says that it is ready. The gateway never waits for that: it dials the pod by itself."""
    terminating: bool = False
    created_at: float | None = None
    """Seconds since the epoch, where known: for the phases of a cold start."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds since the epoch of what is known of its start: `created`, `scheduled`, `started` (its container runs)."""


@dataclass(frozen=True, slots=True)
class PoolPod:
    """A pod of a warm pool that is no function's yet, as the platform sees it."""

    namespace: str
    runtime: str
    name: str
    uid: str
    """What a request that makes it a function's is signed for."""
    host: str | None
    """IP address; None until it is known."""
    port: int
    created_at: float | None = None
    """Seconds since the epoch, where known."""
    leaving: bool = False
    """Its pool shrinks, and the platform is about to delete it: it must not be claimed any more."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway of this installation, this one too."""

    name: str
    host: str | None
    """IP address; None until it is known."""


class Sink(Protocol):
    """The gateway's registry, as a backend sees it."""

    def replace_functions(self, functions: Iterable[Function]) -> None:
        """The first list, and every list after a lost watch: a function that is not in it is gone."""

    def put_function(self, function: Function) -> None:
        """A function was made or changed."""

    def remove_function(self, namespace: str, name: str) -> None:
        """A function was deleted."""

    def replace_pods(self, pods: Iterable[Pod]) -> None:
        """The first list, and every list after a lost watch: a pod that is not in it is gone."""

    def put_pod(self, pod: Pod) -> None:
        """A pod was made or changed."""

    def remove_pod(self, namespace: str, name: str) -> None:
        """A pod is gone."""

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        """As `replace_pods`. A backend without pools says nothing."""

    def put_pool_pod(self, pod: PoolPod) -> None:
        """A pool pod was made or changed."""

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        """A pool pod is gone, or a function's now, or about to end."""

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        """All gateways that may claim pool pods. Without a word of it, this one is alone."""


class Backend(Protocol):
    """Where functions and pods come from."""

    async def run(self, sink: Sink) -> None:
        """Tell `sink` everything, until cancelled; a lost connection is made again by the backend itself."""
