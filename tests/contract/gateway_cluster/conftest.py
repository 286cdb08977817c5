"""The gateway's backend over the fake API server, and a sink that remembers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fake_api_server
import pytest
from fake_api_server import FUNCTIONS, PODS, FakeApiServer, write_kubeconfig
from waiting import eventually

from kappa_core.function import Function
from kappa_gateway.cluster import KubernetesBackend
from kappa_gateway.pods.platform import Peer, Pod, PoolPod
from kappa_kube.reflector import Timing


class MemorySink:
    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], Function] = {}
        self.pods: dict[tuple[str, str], Pod] = {}
        self.pool_pods: dict[tuple[str, str], PoolPod] = {}
        self.peers: dict[str, str | None] = {}
        self.changes: list[tuple[str, str]] = []
        """(what, pod's name) of changes of pods of either kind, in order."""
        self.replaced = {FUNCTIONS: 0, PODS: 0}
        self.calls = 0

    def replace_functions(self, functions: Iterable[Function]) -> None:
        self.functions = {(f.metadata.namespace, f.metadata.name): f for f in functions}
        self.replaced[FUNCTIONS] += 1

    def put_function(self, function: Function) -> None:
        self.functions[(function.metadata.namespace, function.metadata.name)] = function
        self.calls += 1

    def remove_function(self, namespace: str, name: str) -> None:
        self.functions.pop((namespace, name), None)
        self.calls += 1

    def replace_pods(self, pods: Iterable[Pod]) -> None:
        self.pods = {(p.namespace, p.name): p for p in pods}
        self.replaced[PODS] += 1

    def put_pod(self, pod: Pod) -> None:
        self.pods[(pod.namespace, pod.name)] = pod
        self.changes.append(("put", pod.name))
        self.calls += 1

    def remove_pod(self, namespace: str, name: str) -> None:
        self.pods.pop((namespace, name), None)
        self.changes.append(("remove", name))
        self.calls += 1

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        self.pool_pods = {(p.namespace, p.name): p for p in pods}

    def put_pool_pod(self, pod: PoolPod) -> None:
        self.pool_pods[(pod.namespace, pod.name)] = pod
        self.changes.append(("put to pool", pod.name))

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        self.pool_pods.pop((namespace, name), None)
        self.changes.append(("remove from pool", name))

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        self.peers = {peer.name: peer.host for peer in peers}

    async def until(self, condition: Callable[["MemorySink"], object], what: str) -> None:
        await eventually(lambda: condition(self), what)


class Followed:
    """A backend that runs over the fake, and what it has passed on."""

    def __init__(self, server: FakeApiServer, sink: MemorySink, task: asyncio.Task[None], kubeconfig: Path) -> None:
        self.server = server
        self.sink = sink
        self.task = task
        self.kubeconfig = kubeconfig

    async def synced(self) -> None:
        await self.sink.until(lambda s: all(s.replaced.values()), "the first full list")


@pytest.fixture
async def api_server() -> AsyncIterator[FakeApiServer]:
    fake = FakeApiServer()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(url: str, token: str) -> Path:
        write_kubeconfig(tmp_path / "kubeconfig", url, token)
        return tmp_path / "kubeconfig"

    return write


@pytest.fixture
async def follow(
    api_server: FakeApiServer, kubeconfig: Callable[[str, str], Path]
) -> AsyncIterator[Callable[..., Followed]]:
    """Call it to start a backend on the fake; waits are short, so that faults are seen soon."""
    tasks = []

    def start(*namespaces: str, silence: float = 30.0, **settings: Any) -> Followed:
        path = kubeconfig(api_server.url, "first")
        timing = Timing(silence=silence, backoff_first=0.01, backoff_most=0.05, short=0.05)
        sink = MemorySink()
        backend = KubernetesBackend(namespaces, kubeconfig=str(path), timing=timing, **settings)
        task = asyncio.create_task(backend.run(sink))
        tasks.append(task)
        return Followed(api_server, sink, task, path)

    yield start
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def memory_sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def make_function() -> Callable[..., dict[str, Any]]:
    return fake_api_server.make_function


@pytest.fixture
def make_pod() -> Callable[..., dict[str, Any]]:
    return fake_api_server.make_pod
