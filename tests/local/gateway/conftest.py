"""A gateway in this process, with pods that are little servers in this process too."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pool_pods import PRIVATE_KEY, Pools, pool_function
from waiting import eventually

from kappa_core.function import Function
from kappa_gateway.main import Gateway, serve
from kappa_gateway.pods.platform import Pod, Sink
from kappa_gateway.settings import Settings

PATIENCE = 30.0
"""Seconds for an answer: a thousand clients, pods and the gateway share one loop, on a machine that may be busy."""
Responder = Callable[["Request"], Awaitable[bytes | None]]


@dataclass
class Request:
    """One request as the fake pod read it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def response(
    body: bytes = b"null", status: str = "200 OK", headers: dict[str, str] | None = None, *, length: bool = True
) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json"]
    if length:
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class FakePod:
    """Answers as an agent does; `answer` may be changed at any time."""

    answer: Responder
    ready_answer: bytes = response(b'{"state":"ready"}')
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    port: int = 0
    server: asyncio.Server | None = None
    raw: bool = False
    """Do not read bodies: the responder has the reader."""

    async def start(self, port: int = 0) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=1 << 20)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            for task in list(_tasks):
                if task.get_name() == f"pod {id(self)}":
                    task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"pod {id(self)}")
        _tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                method, target, _ = first.split(" ")
                headers = {}
                for line in lines:
                    if line:
                        name, _, value = line.partition(":")
                        headers[name.lower()] = value.strip()
                body = b""
                if not self.raw and "content-length" in headers:
                    body = await reader.readexactly(int(headers["content-length"]))
                request = Request(method, target, headers, body, reader, writer)
                if target.startswith("/readyz"):
                    answer: bytes | None = self.ready_answer
                else:
                    self.requests.append(request)
                    answer = await self.answer(request)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open_connections -= 1
            _tasks.discard(task)
            writer.close()


_tasks: set[asyncio.Task[Any]] = set()


async def echo(request: Request) -> bytes:
    return response(request.body)


class StaticBackend:
    """Tells what the test tells it."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.started = asyncio.Event()
        self.functions: list[Function] = []
        self.pods: list[Pod] = []

    async def run(self, sink: Sink) -> None:
        sink.replace_functions(self.functions)
        sink.replace_pods(self.pods)
        self.sink = sink
        self.started.set()
        await asyncio.Event().wait()


def make_function(name: str = "hello", namespace: str = "default", **spec: Any) -> Function:
    base: dict[str, Any] = {
        "runtime": "python3.13",
        "handler": "main.handler",
        "code": {"inline": "def handler(event, context):\n    return event\n"},
    }
    if "code" in spec and "image" in spec["code"]:
        base = {}
    return Function.model_validate(
        {"metadata": {"name": name, "namespace": namespace, "generation": 1}, "spec": {**base, **spec}}
    )


def make_web_function(name: str = "web", **spec: Any) -> Function:
    return make_function(name, code={"image": {"ref": "web:1", "protocol": "http"}}, **spec)


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    closed: bool = False

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One raw connection: tests write what they like and read what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = [(line.partition(":")[0], line.partition(":")[2].strip()) for line in lines]
        return Answer(int(first.split(" ")[1]), headers, b"")

    async def answer(self, *, is_head: bool = False) -> Answer:
        answer = await self.head()
        async with asyncio.timeout(PATIENCE):
            if is_head or answer.status in (204, 304) or answer.status < 200:
                pass
            elif answer.header("transfer-encoding") == "chunked":
                while size := int((await self.reader.readline()).split(b";")[0], 16):
                    answer.body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readline()
            elif (length := answer.header("content-length")) is not None:
                answer.body = await self.reader.readexactly(int(length))
        return answer

    async def request(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", "host: gateway.test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        return await self.answer(is_head=method == "HEAD")

    async def at_eof(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1) == b""

    async def close(self) -> None:
        self.writer.close()


@dataclass
class Running:
    gateway: Gateway
    backend: StaticBackend
    port: int
    internal_port: int
    stop: asyncio.Event
    task: asyncio.Task[None]
    pods: list[FakePod] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    @property
    def sink(self) -> Sink:
        assert self.backend.sink is not None
        return self.backend.sink

    async def connect(self) -> Client:
        host = self.gateway.settings.host
        client = Client(*await asyncio.open_connection(host, self.port, limit=1 << 22))
        self.clients.append(client)
        return client

    async def request(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        client = await self.connect()
        try:
            return await client.request(method, target, body, headers)
        finally:
            await client.close()

    async def invoke(self, name: str = "hello", body: bytes | None = b"{}", **headers: str) -> Answer:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.request("POST", f"/2015-03-31/functions/{name}/invocations", body, sent)

    async def add_pod(
        self,
        answer: Responder = echo,
        *,
        function: str = "hello",
        name: str | None = None,
        concurrency: int = 1,
        protocol: Any = "lambda",
        raw: bool = False,
        ready_answer: bytes | None = None,
    ) -> FakePod:
        pod = FakePod(answer, raw=raw)
        if ready_answer is not None:
            pod.ready_answer = ready_answer
        await pod.start()
        self.pods.append(pod)
        self.sink.put_pod(
            Pod("default", name or f"pod-{len(self.pods)}", function, "127.0.0.1", pod.port, concurrency, protocol)
        )
        return pod


@asynccontextmanager
async def running(backend: Any = None, **settings: Any) -> AsyncIterator[Running]:
    backend = backend or StaticBackend()
    stop = asyncio.Event()
    started: asyncio.Future[tuple[Gateway, int, int]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            Settings(**{"host": "127.0.0.1", "port": 0, "internal_port": 0, "name": "test", **settings}),
            backend,
            stop=stop,
            on_started=lambda *what: started.set_result(what),
        )
    )
    await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    gateway, port, internal_port = started.result()
    run = Running(gateway, backend, port, internal_port, stop, task)
    await eventually(gateway.functions.synced.is_set)
    try:
        yield run
    finally:
        for client in run.clients:
            await client.close()
        stop.set()
        async with asyncio.timeout(15):
            await task
        for pod in run.pods:
            await pod.stop()


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    """A gateway that knows the functions `hello` (lambda) and `web` (http), without pods."""
    backend = StaticBackend()
    backend.functions = [make_function(), make_web_function()]
    async with running(backend) as run:
        yield run


class Tools:
    """What the tests of this folder share."""

    eventually = staticmethod(eventually)
    response = staticmethod(response)
    echo = staticmethod(echo)
    running = staticmethod(running)
    function = staticmethod(make_function)
    web_function = staticmethod(make_web_function)
    backend = StaticBackend
    pod = FakePod


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture
async def pools(tools: type[Tools]) -> AsyncIterator[Pools]:
    backend = tools.backend()
    backend.functions = [pool_function(tools), pool_function(tools, "other")]
    async with tools.running(backend, pool_private_key=PRIVATE_KEY) as run:
        yield Pools(run, tools)
