"""Composes and serves the gateway. No other module composes: here each part is constructed after the parts that it
uses."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from kappa_core.event import Kind, Lane
from kappa_gateway.edge import websocket
from kappa_gateway.edge.app import make_app
from kappa_gateway.edge.asgi import App
from kappa_gateway.edge.async_api import AsyncApi
from kappa_gateway.edge.async_intake import AsyncIntake
from kappa_gateway.edge.bodies import BodyMemory
from kappa_gateway.edge.data_path import DataPath
from kappa_gateway.edge.function_urls import FunctionUrls
from kappa_gateway.edge.http_server import ClientProtocol, Limits
from kappa_gateway.edge.internal import InternalApp
from kappa_gateway.edge.lambda_api import LambdaApi
from kappa_gateway.edge.lookup import Lookup
from kappa_gateway.edge.metrics import Metrics
from kappa_gateway.edge.readiness import GatewayReadiness
from kappa_gateway.edge.server import (
    Server,
    internal_server,
    public_server,
    raise_file_limit,
    until_listening,
)
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.destinations.deliverer import Deliverer
from kappa_gateway.events.service import Events
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.peers import Peers
from kappa_gateway.pods.demand import DemandFeed
from kappa_gateway.pods.dialer import Dialer
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.offer import NoWarmPods
from kappa_gateway.pods.platform import Backend, Peer
from kappa_gateway.pods.registry import Registry
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.pods.warm.book import ClaimBook
from kappa_gateway.pods.warm.claims import Claims
from kappa_gateway.pods.warm.code import CodeCache
from kappa_gateway.pods.warm.free_pods import FreePods
from kappa_gateway.pods.warm.ownership import Ownership
from kappa_gateway.pods.warm.signing import Signer, signer
from kappa_gateway.pods.warm.source import WarmPods
from kappa_gateway.pods.warm.specialize_request import Specializer
from kappa_gateway.queue.factory import make_queue
from kappa_gateway.queue.protocol import Publisher, Queue
from kappa_gateway.settings import Settings
from kappa_gateway.transport.endpoint import Upstream

logger = logging.getLogger(__name__)

SWEEP_INTERVAL: Final = 0.1
"""Seconds between looks at deadlines: one sweep over what is in flight instead of a timer for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Its parts, for `serve`, for local mode's scaling, and for tests."""

    settings: Settings
    functions: Functions
    readiness: GatewayReadiness
    registry: Registry
    dispatcher: Dispatcher
    dialer: Dialer
    upstream: Upstream
    demand: DemandFeed
    warm: "WarmParts"
    invoker: Invoker
    bodies: BodyMemory
    events: Events | None
    """None where no queue is configured."""
    metrics: Metrics
    public: Server
    internal: Server | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmParts:
    """The parts that cold starts from pools need. `pods`, `peers` and `signer` are None where the settings name no
    key."""

    signer: Signer | None
    code: CodeCache
    free_pods: FreePods
    ownership: Ownership
    book: ClaimBook
    claims: Claims
    pods: WarmPods | None
    peers: Peers | None


# -- composition


def compose(settings: Settings, queue: Queue | None = None, deliverer: Deliverer | None = None) -> Gateway:
    """On the running event loop. Raises `BadKey`."""
    loop = asyncio.get_running_loop()
    key = signer(settings)
    upstream = Upstream(loop, idle_timeout=settings.upstream_idle_timeout)
    functions = Functions(region=settings.region, account=settings.account)

    # pods
    code = CodeCache(settings)
    free_pods = FreePods(upstream, settings.name, key.prepare if key is not None else _nothing)
    ownership = Ownership(settings.name, loop.time, is_alone=not settings.pool_peers_namespace)
    book = ClaimBook()
    warm_pods = None
    if key is not None:
        warm_pods = WarmPods(free_pods, ownership, book, clock=loop.time, wall_clock=time.time, prefetch=code.prefetch)
        functions.subscribe(warm_pods)
    backlog = Backlog()
    demand = DemandFeed(settings.name, functions, backlog=backlog, claims=book.reported, clock=loop.time)
    dispatcher = Dispatcher(
        loop.time,
        warm_pods or NoWarmPods(),
        call_at=loop.call_at,
        on_demand=demand.waits,
        max_waiting_requests=settings.max_waiting_requests,
        max_wait=settings.max_wait,
    )
    claims = Claims(book, free_pods, functions, dispatcher, demand, loop)
    dialer = Dialer(dispatcher, claims, loop)
    registry = Registry(functions, dispatcher, dialer, claims, free_pods, ownership, upstream, time.time)

    # invocations
    peers = Peers(upstream, key, settings.internal_port) if key is not None else None
    specializer = None
    if key is not None:
        specializer = Specializer(key, code, region=settings.region, account=settings.account)
    invoker = Invoker(
        dispatcher,
        dialer,
        claims,
        specializer=specializer,
        does_not_fit=warm_pods.refuse if warm_pods is not None else _never_fits,
        peers=peers,
        connect_timeout=settings.connect_timeout,
        answer_margin=settings.answer_margin,
        max_wait=settings.max_wait,
    )

    # events
    events = None
    if queue is not None and deliverer is not None:
        events = Events(
            queue=queue,
            deliverer=deliverer,
            functions=functions,
            invoker=invoker,
            backlog=backlog,
            settings=settings,
            claimant=warm_pods.claimant if warm_pods is not None else _no_claimant,
            notify_claimant=peers.notify_backlog if peers is not None else _notify_nothing,
        )

    # the edge
    metrics = Metrics(functions, free_pods.counts)
    if events is not None:
        metrics.register(events.collector())
    readiness = GatewayReadiness(functions)
    bodies = BodyMemory(settings.body_memory_bytes)
    lookup = Lookup(functions, metrics.refuse)
    intake = AsyncIntake(events.intake if events is not None else None, bodies, settings)
    lambda_api = LambdaApi(lookup, invoker, intake, bodies, settings)
    function_urls = FunctionUrls(lookup, invoker, intake, bodies, settings)
    async_api = AsyncApi(events, functions, bodies, settings)
    app = make_app(lambda_api, function_urls, async_api, metrics, readiness)
    internal = None
    if settings.internal_port >= 0:
        internal_app = InternalApp(
            demand,
            code,
            functions,
            invoker,
            peers,
            bodies,
            settings,
            notify_backlog=partial(_notify_lane, events) if events is not None else _ignore,
        )
        internal = internal_server(settings, internal_app)
    return Gateway(
        settings=settings,
        functions=functions,
        readiness=readiness,
        registry=registry,
        dispatcher=dispatcher,
        dialer=dialer,
        upstream=upstream,
        demand=demand,
        warm=WarmParts(
            signer=key,
            code=code,
            free_pods=free_pods,
            ownership=ownership,
            book=book,
            claims=claims,
            pods=warm_pods,
            peers=peers,
        ),
        invoker=invoker,
        bodies=bodies,
        events=events,
        metrics=metrics,
        public=_public(settings, DataPath(lambda_api, function_urls, app), lookup, invoker, metrics),
        internal=internal,
    )


def _public(settings: Settings, app: App, lookup: Lookup, invoker: Invoker, metrics: Metrics) -> Server:
    limits = Limits(settings.head_timeout, settings.max_connections, metrics.refuse)
    relay = websocket.Settings(
        idle_timeout=settings.websocket_idle_timeout,
        connect_timeout=settings.connect_timeout,
        trusts_forwarded=settings.trusted_proxies > 0,
    )
    return public_server(
        settings,
        app,
        http=partial(ClientProtocol, limits=limits),
        websocket=partial(websocket.Relay, lookup=lookup, invoker=invoker, settings=relay),
    )


def _nothing() -> None:
    pass


def _never_fits(function: FunctionState, why: str) -> None:
    raise AssertionError(f"{function.key} was offered a pool pod, but this gateway has no pools: {why}")


def _no_claimant(_: FunctionState) -> Peer | None:
    return None


def _notify_nothing(_peer: Peer, _function: FunctionState) -> None:
    pass


def _ignore(_: FunctionState) -> None:
    pass


def _notify_lane(events: Events, function: FunctionState) -> None:
    events.notify(Lane(Kind.INVOCATION, function.namespace, function.name))


# -- its life


async def serve(
    settings: Settings,
    backend: Backend,
    *,
    stop: asyncio.Event | None = None,
    on_started: Callable[[Gateway, int, int], None] | None = None,
) -> None:
    """Serve until `stop` is set (without one: until SIGTERM or SIGINT), then drain and return.

    `on_started(gateway, port, internal_port)` is called once the ports listen; the gateway is synced a moment later
    (`gateway.functions.synced`). Raises `OSError` if a port is taken, `QueueMisconfigured` if the queue cannot be used,
    `BadKey`, and whatever ends the backend.
    """
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    raise_file_limit()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    async with opened(settings) as gateway:
        await _serve_all(gateway, backend, stop, on_started)


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Gateway]:
    """The gateway, with its queue open where the settings name one. Raises `QueueMisconfigured`, `BadKey`."""
    queue = make_queue(settings)
    if queue is None:
        yield compose(settings)
        return
    await queue.open()
    try:
        publisher = cast(Publisher, queue) if hasattr(queue, "publish") else None
        async with Deliverer(settings, publisher) as deliverer:
            yield compose(settings, queue, deliverer)
    finally:
        await queue.close()


async def _serve_all(
    gateway: Gateway,
    backend: Backend,
    stop: asyncio.Event,
    on_started: Callable[[Gateway, int, int], None] | None,
) -> None:
    settings, events, public = gateway.settings, gateway.events, gateway.public
    servers = [public] if gateway.internal is None else [public, gateway.internal]
    running = [asyncio.create_task(server.run_until_exit(), name="http server") for server in servers]
    work = [
        asyncio.create_task(gateway.demand.run(gateway.dispatcher.take_peak), name="demand"),
        asyncio.create_task(_sweep(gateway), name="sweep"),
        asyncio.create_task(backend.run(gateway.registry), name="backend"),
    ]
    if events is not None:
        work.append(asyncio.create_task(events.run(), name="events"))
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await until_listening(servers, running)
        logger.info("listening", extra={"port": public.bound_port})
        if on_started is not None:
            on_started(gateway, public.bound_port, gateway.internal.bound_port if gateway.internal is not None else -1)
        done, _ = await asyncio.wait([stopping, *work, *running], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if stopping not in done:
            raise RuntimeError(f"{', '.join(task.get_name() for task in done)} ended unexpectedly")
        gateway.readiness.stop()
        if events is not None:
            events.stop()
        logger.info("stopping", extra={"in_flight": len(gateway.upstream.active)})
        await asyncio.sleep(settings.drain_delay)
    finally:
        gateway.readiness.stop()
        # backend, sweep and demand stream go on while requests end: one that waits may still get its pod
        public.should_exit = True
        ends = [running[0]]
        if events is not None:
            ends.append(asyncio.create_task(events.drain(settings.drain_timeout), name="events' end"))
        await asyncio.gather(*ends, return_exceptions=True)
        gateway.demand.close()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)
        for task in (stopping, *work):
            task.cancel()
        await asyncio.gather(stopping, *work, return_exceptions=True)
        await close(gateway)
        logger.info("stopped")


async def _sweep(gateway: Gateway) -> None:
    """Deadlines of requests and connections, until cancelled."""
    loop = asyncio.get_running_loop()
    sweep_clients = gateway.public.sweep
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        gateway.dispatcher.expire()
        gateway.upstream.sweep()
        sweep_clients(loop.time())


async def close(gateway: Gateway) -> None:
    """End what runs beside the requests, and every connection."""
    gateway.demand.close()
    await gateway.warm.claims.close()
    if gateway.warm.peers is not None:
        await gateway.warm.peers.close()
    await gateway.warm.free_pods.close()
    await gateway.warm.code.close()
    await gateway.dialer.close()
    gateway.upstream.close()
