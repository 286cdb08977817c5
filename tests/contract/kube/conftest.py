"""Reflectors over the fake API server, and a client over a server whose answers a test chooses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import fake_api_server
import pytest
from fake_api_server import FUNCTIONS, PODS, FakeApiServer, write_kubeconfig
from scripted_server import ScriptedServer
from waiting import eventually

from kappa_core import names
from kappa_kube import paths
from kappa_kube.client import Client
from kappa_kube.connection import Connection
from kappa_kube.reflector import Reflector, Resource, Timing
from kappa_kube.table import Table


class Item(NamedTuple):
    namespace: str
    name: str
    host: str | None


def read(raw: Mapping[str, Any], _seen_at: float | None, _previous: Item | None, /) -> Item:
    return Item(raw["metadata"]["namespace"], raw["metadata"]["name"], (raw.get("status") or {}).get("podIP"))


class Listener:
    """What tables passed on: pods in full, of Functions only that they were listed."""

    def __init__(self) -> None:
        self.pods: dict[tuple[str, str], Item] = {}
        self.replaced = {FUNCTIONS: 0, PODS: 0}
        self.calls = 0

    def replace_functions(self, _items: Iterable[Item]) -> None:
        self.replaced[FUNCTIONS] += 1

    def replace(self, items: Iterable[Item]) -> None:
        self.pods = {(item.namespace, item.name): item for item in items}
        self.replaced[PODS] += 1

    def put(self, item: Item) -> None:
        self.pods[(item.namespace, item.name)] = item
        self.calls += 1

    def remove(self, namespace: str, name: str) -> None:
        self.pods.pop((namespace, name), None)
        self.calls += 1

    async def until(self, condition: Callable[["Listener"], object], what: str) -> None:
        await eventually(lambda: condition(self), what)


class Followed:
    """Reflectors that run over the fake, and what their tables passed on."""

    def __init__(self, sink: Listener, task: asyncio.Task[None], kubeconfig: Path) -> None:
        self.sink = sink
        self.task = task
        self.kubeconfig = kubeconfig

    async def synced(self) -> None:
        await self.sink.until(lambda s: all(s.replaced.values()), "the first full list")


async def run(kubeconfig: Path, listener: Listener, timing: Timing) -> None:
    async with Connection("kappa-test", kubeconfig=str(kubeconfig), limit=0) as connection:
        client = Client(connection, "kappa-test")
        functions = Table([""], read, replace=listener.replace_functions, put=print, remove=print)
        pods = Table([""], read, replace=listener.replace, put=listener.put, remove=listener.remove)
        of_functions = Resource(paths.collection(paths.FUNCTIONS, ""), "Functions")
        of_pods = Resource(paths.collection(paths.PODS, ""), "pods", names.LABEL_FUNCTION)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Reflector(client, of_functions, "", functions, timing=timing).run())
            tasks.create_task(Reflector(client, of_pods, "", pods, timing=timing).run())


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
    """Call it to start reflectors on the fake; waits are short, so that faults are seen soon."""
    tasks = []

    def start(silence: float = 30.0) -> Followed:
        timing = Timing(silence=silence, backoff_first=0.01, backoff_most=0.05, short=0.05)
        path, listener = kubeconfig(api_server.url, "first"), Listener()
        task = asyncio.create_task(run(path, listener, timing))
        tasks.append(task)
        return Followed(listener, task, path)

    yield start
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def make_pod() -> Callable[..., dict[str, Any]]:
    return fake_api_server.make_pod


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def connection(server: ScriptedServer, kubeconfig: Callable[[str, str], Path]) -> AsyncIterator[Connection]:
    async with Connection("kappa-test", kubeconfig=str(kubeconfig(server.url, "secret"))) as connection:
        yield connection


@pytest.fixture
def api(connection: Connection) -> Client:
    return Client(connection, "kappa-operator")
