"""What the gateway's layers stand on in unit tests: time that a test moves, and a network that is in memory.

Everything above that is the gateway's own code. `VirtualLoop` waits without taking time: where nothing else is to be
done, its clock jumps to the next timer. `loop.network` holds the servers that can be dialled. `FakePod` is one that
answers as an agent.
"""

import asyncio
import inspect
import json
import selectors
from dataclasses import dataclass, field

from event_fakes import make_manifest

from kappa_core import wire
from kappa_core.function import Function
from kappa_core.specialize import read
from kappa_gateway.edge.asgi import CLIENT
from kappa_gateway.edge.async_intake import AsyncIntake
from kappa_gateway.edge.bodies import BodyMemory
from kappa_gateway.edge.function_urls import FunctionUrls
from kappa_gateway.edge.internal import InternalApp
from kappa_gateway.edge.lambda_api import LambdaApi
from kappa_gateway.edge.lookup import Lookup
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.peers import Peers
from kappa_gateway.invoke.request import Request
from kappa_gateway.pods.demand import DemandFeed
from kappa_gateway.pods.dialer import Dialer
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.platform import Pod, PoolPod
from kappa_gateway.pods.registry import Registry
from kappa_gateway.pods.state import PodStatus
from kappa_gateway.pods.warm.book import ClaimBook
from kappa_gateway.pods.warm.claims import Claims
from kappa_gateway.pods.warm.code import CodeCache
from kappa_gateway.pods.warm.free_pods import FreePods
from kappa_gateway.pods.warm.ownership import Ownership
from kappa_gateway.pods.warm.signing import Signer
from kappa_gateway.pods.warm.source import WarmPods
from kappa_gateway.pods.warm.specialize_request import Specializer
from kappa_gateway.settings import Settings
from kappa_gateway.transport.endpoint import Upstream

EPOCH = 1_000_000.0
"""The wall clock is this much ahead of the loop's."""
RUNTIME = "python3.13"
GATEWAY = "gateway-a"
KEY = bytes(range(32))

# -- time


class VirtualTime:
    """In place of the module `time`, by the clock of the loop that runs."""

    now = 1000.0

    @classmethod
    def monotonic(cls):
        return cls.now

    @classmethod
    def time(cls):
        return EPOCH + cls.now


class _Jump(selectors.SelectSelector):
    """Moves the clock instead of waiting."""

    def select(self, timeout=None):
        if timeout is None:
            # a thread may still have something to say
            ready = super().select(5.0)
            if not ready:
                raise RuntimeError("everything waits, and nothing will ever happen")
            return ready
        ready = super().select(0)
        if not ready:
            VirtualTime.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(_Jump())
        self.network = {}
        """(host, port) → server."""

    def time(self):
        return VirtualTime.now

    async def create_connection(self, factory, host=None, port=None, **_):
        await asyncio.sleep(0)
        server = self.network.get((host, port))
        if server is None or not server.accepts:
            raise ConnectionRefusedError(f"{host}:{port} refuses connections")
        while server.hangs:  # noqa: ASYNC110 - tests set it like any other field
            await asyncio.sleep(0.01)
        protocol = factory()
        return server.connect(self, protocol), protocol


# -- network


class FakeTransport(asyncio.Transport):
    """One end of a connection in memory: what is written goes to `on_data` in the loop's next turn."""

    def __init__(self, loop, protocol, on_data=lambda transport: None):
        super().__init__()
        self.loop, self.protocol, self.on_data = loop, protocol, on_data
        self.written = b""
        self.is_paused = self.is_closed = self.was_aborted = False
        self._held = []

    def write(self, data):
        if not self.is_closed:
            self.written += data
            self.loop.call_soon(self.on_data, self)

    def close(self):
        self._end(None)

    def abort(self):
        self.was_aborted = True
        self._end(None)

    def is_closing(self):
        return self.is_closed

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False
        held, self._held = self._held, []
        for data in held:
            self.deliver(data)

    def deliver(self, data):
        """The other end sends this."""
        if data:
            self.loop.call_soon(self._receive, data)

    def break_off(self, error=None):
        """The other end closes: seen in the loop's next turn."""
        self.loop.call_soon(self._end, error)

    def _receive(self, data):
        if self.is_paused:
            self._held.append(data)
        elif not self.is_closed:
            self.protocol.data_received(data)

    def _end(self, error):
        if not self.is_closed:
            self.is_closed = True
            self.loop.call_soon(self.protocol.connection_lost, error)


@dataclass
class Received:
    """One request as a server in memory read it."""

    method: str
    target: str
    headers: dict
    body: bytes
    transport: FakeTransport


def response(body=b"null", status="200 OK", headers=None):
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refusal(reason, status="429 Too Many Requests"):
    return response(b"{}", status, {wire.REFUSED: reason})


def readiness(state, status="200 OK", **more):
    return response(json.dumps({"state": state, **more}).encode(), status)


def echo(request):
    return response(request.body)


@dataclass
class FakePod:
    """`answer(request)` gives bytes, or None to close the connection. It may be a coroutine function, or replaced."""

    answer: object = echo
    ready: bytes = readiness(wire.READY)
    """What `/readyz` answers."""
    accepts: bool = True
    hangs: bool = False
    """It takes no connection, and does not refuse it either."""
    requests: list = field(default_factory=list)
    """Without those to `/readyz`."""
    asked: int = 0
    """How often it was asked whether it is ready."""
    transports: list = field(default_factory=list)
    _tasks: set = field(default_factory=set)

    @property
    def open(self):
        return [transport for transport in self.transports if not transport.is_closed]

    def connect(self, loop, protocol):
        transport = FakeTransport(loop, protocol, self._read)
        self.transports.append(transport)
        protocol.connection_made(transport)
        return transport

    def break_off(self):
        for transport in self.open:
            transport.break_off()

    def _read(self, transport):
        head, end, rest = transport.written.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0))
        if len(rest) < size:
            return
        transport.written = rest[size:]
        task = transport.loop.create_task(self._serve(Received(method, target, headers, rest[:size], transport)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, request):
        if request.target.startswith(wire.READY_PATH):
            self.asked += 1
            answer = self.ready
        else:
            self.requests.append(request)
            answer = self.answer(request)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None:
            request.transport.break_off()
        else:
            request.transport.deliver(answer)


class FakePoolPod(FakePod):
    """As an agent in a pool: the first specialize request gives it a function, and its answer is the invocation's.

    `refuse`: what it answers to that request instead. `lose`: it breaks the connection; `take`: and has the function.
    `hold`: answers only once this event is set.
    """

    def __init__(self, name, host, *, refuse=None, lose=False, take=True, hold=None):
        super().__init__(answer=self._invoke, ready=readiness(wire.POOL))
        self.name, self.host = name, host
        self.refuse, self.lose, self.take, self.hold = refuse, lose, take, hold
        self.specialized = []

    @property
    def as_pool_pod(self):
        return PoolPod("default", RUNTIME, self.name, f"uid-{self.name}", self.host, 8080)

    async def _invoke(self, request):
        if request.target != wire.SPECIALIZE_PATH:
            return response(request.body) if self.specialized else refusal(wire.REFUSED_POOL, "503 Unavailable")
        if self.refuse is not None:
            return self.refuse
        got = read(
            request.body,
            pod_uid=f"uid-{self.name}",
            now=VirtualTime.time(),
            agent_started=0.0,
            verify=lambda message, signature: True,
        )
        if self.lose and not self.take:
            return None
        self.specialized.append(got)
        config = got.specialization.config
        self.ready = readiness(wire.READY, function=f"{config.function_namespace}/{config.function_name}")
        if self.lose:
            return None
        if self.hold is not None:
            await self.hold.wait()
        return response(got.payload, headers={wire.PHASES: "verify=0.01,code=0.02,init=0.03,run=0.04"})


# -- the gateway's lower layers


def manifest(name="hello", *, pool=False, **spec):
    made = make_manifest(name, **spec)
    if not pool:
        return made
    status = {"observedGeneration": 1, "coldStart": {"path": "Pool", "reason": "test"}}
    return Function.model_validate({**made.model_dump(by_alias=True), "status": status})


class Cluster:
    """`pods` over `transport`, on a network in memory, with one function `default/hello`. Made in a running loop."""

    def __init__(self, *, pool=False, peers=None, max_wait=60.0, max_waiting_requests=1000, **spec):
        self.loop = asyncio.get_running_loop()
        self.upstream = Upstream(self.loop)
        self.functions = Functions()
        self.free_pods = FreePods(self.upstream, GATEWAY, lambda: None)
        self.ownership = Ownership(GATEWAY, self.loop.time, is_alone=peers is None)
        self.book = ClaimBook()
        self.settings = Settings(name=GATEWAY)
        self.code = CodeCache(self.settings)
        self.warm = WarmPods(
            self.free_pods,
            self.ownership,
            self.book,
            clock=self.loop.time,
            wall_clock=VirtualTime.time,
            prefetch=self.code.prefetch,
        )
        self.functions.subscribe(self.warm)
        self.backlog = {}
        self.demand = DemandFeed(
            GATEWAY,
            self.functions,
            backlog=lambda function: self.backlog.get(function.name, 0),
            claims=self.book.reported,
            clock=self.loop.time,
        )
        self.dispatcher = Dispatcher(
            self.loop.time,
            self.warm,
            call_at=self.loop.call_at,
            on_demand=self.demand.waits,
            max_wait=max_wait,
            max_waiting_requests=max_waiting_requests,
        )
        self.claims = Claims(self.book, self.free_pods, self.functions, self.dispatcher, self.demand, self.loop)
        self.dialer = Dialer(self.dispatcher, self.claims, self.loop, VirtualTime.time)
        self.registry = Registry(
            self.functions,
            self.dispatcher,
            self.dialer,
            self.claims,
            self.free_pods,
            self.ownership,
            self.upstream,
            VirtualTime.time,
        )
        if peers is not None:
            self.registry.replace_peers(peers)
        self.registry.replace_functions([manifest(pool=pool, **spec)])
        self.registry.replace_pods([])
        self.function = self.functions.get("default", "hello")
        self.count = 0

    def host(self):
        self.count += 1
        return f"10.0.0.{self.count}"

    def put(self, server, name="", *, host=None, concurrency=1, function="hello", protocol="lambda", **more):
        """The platform shows a pod; `server` answers at its address."""
        host = host or self.host()
        self.loop.network[host, 8080] = server
        self.registry.put_pod(
            Pod("default", name or f"pod-{self.count}", function, host, 8080, concurrency, protocol, **more)
        )
        return self.dispatcher.pod("default", name or f"pod-{self.count}")

    async def add(self, server=None, name="", **more):
        """A pod that is ready. Returns what answers there, and its record."""
        server = server or FakePod()
        state = self.put(server, name, **more)
        await until(lambda: state.status is not PodStatus.STARTING)
        return server, state

    def put_pool_pod(self, **how):
        host = self.host()
        server = FakePoolPod(f"pool-{self.count}", host, **how)
        self.loop.network[host, 8080] = server
        self.registry.put_pool_pod(server.as_pool_pod)
        return server

    async def add_pool_pod(self, **how):
        free = self.free
        server = self.put_pool_pod(**how)
        await until(lambda: self.free > free)
        return server

    @property
    def free(self):
        return self.free_pods.free("default", RUNTIME)

    async def close(self):
        await self.claims.close()
        await self.dialer.close()
        await self.free_pods.close()
        await self.code.close()
        self.upstream.close()


class Invoking(Cluster):
    """`invoke` over `pods`."""

    def __init__(self, **how):
        super().__init__(**how)
        self.peers = Peers(self.upstream, Signer(KEY), 9001, VirtualTime.time)
        self.invoker = Invoker(
            self.dispatcher,
            self.dialer,
            self.claims,
            specializer=Specializer(
                lambda message: b"s" * 64,
                self.code,
                region="us-east-1",
                account="000000000000",
                clock=VirtualTime.time,
            ),
            does_not_fit=self.warm.refuse,
            peers=self.peers,
            connect_timeout=2.0,
            answer_margin=5.0,
            max_wait=60.0,
        )

    def invocation(self, kind=None, **more):
        return Invocation(self.invoker, self.function, kind, "id-1", **more)

    async def close(self):
        await self.peers.close()
        await super().close()


def request(body=b"{}", **more):
    tail = b"id-1\r\nContent-Length: %d\r\n\r\n" % len(body)
    return Request(lambda function: function.request_head + tail, body, **more)


async def until(condition, within=60.0):
    """Wait by the virtual clock for a condition."""
    deadline = VirtualTime.now + within
    while not (value := condition()):
        assert deadline > VirtualTime.now, f"not within {within} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.001)
    return value


async def whole(connection):
    """The rest of an answer's body."""
    body = b""
    while (chunk := await connection.chunk()) is not None:
        body += chunk
    return body


# -- the edge


class FakeClient:
    """The connection that a request came over, as the edge sees it."""

    def __init__(self, body_is_here=True):
        self.body_is_here, self.answer_has_begun = body_is_here, False
        self.on_disconnect = None
        self.aborted = False

    def abort(self):
        self.aborted = True


class Call:
    """One request to an ASGI app. `pieces`: its body as it comes; what comes after them is awaited for ever, or is the
    caller's leaving once `leave` was called."""

    def __init__(self, method, path, *pieces, headers=None, query="", body_is_here=None, length=True):
        self.pieces = list(pieces or (b"",))
        here = len(self.pieces) == 1 if body_is_here is None else body_is_here
        self.client = FakeClient(here)
        self.left = asyncio.Event()
        lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        if length:
            lines.append((b"content-length", b"%d" % sum(map(len, self.pieces))))
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "http_version": "1.1",
            "scheme": "http",
            "headers": [(b"host", b"gateway.example.com"), *lines],
            "client": ("192.0.2.1", 4711),
            CLIENT: self.client,
        }
        self.status, self.headers, self.body, self.is_complete = 0, {}, b"", False

    async def receive(self):
        if self.pieces:
            return {"type": "http.request", "body": self.pieces.pop(0), "more_body": bool(self.pieces)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            assert not self.status, "an answer begins once"
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            self.client.answer_has_begun = True
        else:
            assert self.status
            assert not self.is_complete
            self.body += message.get("body", b"")
            self.is_complete = not message.get("more_body")

    def leave(self):
        self.left.set()
        if self.client.on_disconnect is not None:
            self.client.on_disconnect()

    def json(self):
        return json.loads(self.body)

    async def to(self, app):
        """Has the app serve it, to the end of what it does after the answer."""
        await app(self.scope, self.receive, self.send)
        await asyncio.sleep(0)
        return self


class FakeIntake:
    """Stores events in a list. `known`: ids that it says it has already; `error`: raised instead."""

    def __init__(self):
        self.stored, self.known, self.error = [], set(), None

    async def enqueue(self, function, request_id, payload, attributes, *, keyed):
        if self.error is not None:
            raise self.error
        if request_id in self.known:
            return False
        self.stored.append((function.key, request_id, payload, attributes, keyed))
        return True


class Edge(Invoking):
    """The ASGI apps over `invoke`. `has_queue` False: without asynchronous invocations."""

    def __init__(self, *, has_queue=True, settings=None, **how):
        super().__init__(**how)
        self.settings = Settings(name=GATEWAY, **(settings or {}))
        self.refused = []
        self.bodies = BodyMemory(self.settings.body_memory_bytes)
        self.lookup = Lookup(self.functions, self.refused.append)
        self.intake = FakeIntake() if has_queue else None
        parts = (self.lookup, self.invoker, AsyncIntake(self.intake, self.bodies, self.settings), self.bodies)
        self.lambda_api = LambdaApi(*parts, self.settings)
        self.function_urls = FunctionUrls(*parts, self.settings)
        self.notified = []
        self.internal = InternalApp(
            self.demand,
            self.code,
            self.functions,
            self.invoker,
            self.peers,
            self.bodies,
            self.settings,
            self.notified.append,
        )

    def is_idle(self):
        function = self.function
        return not (function.in_flight or function.waiters or self.upstream.active) and (
            self.bodies.free == self.bodies.limit
        )
