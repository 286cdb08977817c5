"""The composition of the operator's parts, and the order in which they start and stop.

Start: health server, Lease (a standby waits here), first full list, then watches, workers and demand streams.
Stop: demand streams and workers first, then the Lease, then kopf, so that the next leader starts where this one ended.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import kopf
from aiohttp import web

from kappa_core import names
from kappa_kube.client import Client
from kappa_kube.connection import Connection
from kappa_kube.errors import ApiError, KubeError, LeaseLost, RequestFailed
from kappa_kube.lease import Lease, LeaseTimes
from kappa_kube.workqueue import WorkQueue
from kappa_operator import gateways, scale_api, watch
from kappa_operator.adoption import Adoption, Retirement
from kappa_operator.cache import Cache
from kappa_operator.claims import Claims
from kappa_operator.demand_stream import DemandStreams, Listeners
from kappa_operator.events import EventRecorder
from kappa_operator.metrics import Metrics
from kappa_operator.pools import Pools
from kappa_operator.probes import InitProbes
from kappa_operator.reconcile import Reconciler
from kappa_operator.relist import Relister
from kappa_operator.scaler import Scaler
from kappa_operator.server import Health, application
from kappa_operator.settings import Settings
from kappa_operator.verify import Verifier

logger = logging.getLogger(__name__)

POOL_WORKERS: Final = 2
RELIST_RETRY: Final = 2.0
STOP_SECONDS: Final = 10.0
KOPF_STOP_SECONDS: Final = 8.0


class Operator:
    """`run()` is the whole life of the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._metrics = Metrics()
        self._queue = WorkQueue(settings.workers, self._reconcile_failed)
        self._health = Health(lambda: len(self._queue))

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit code: 0 after a requested stop, else 1. Raises `NoCluster`."""
        settings = self._settings
        times = LeaseTimes(settings.lease_duration, settings.renew_deadline, settings.retry_period)
        self._catch_signals()
        if not settings.runtimes:
            logger.warning("no runtimes are set (KAPPA_OPERATOR_RUNTIMES): only Functions with an image can run")
        async with Connection("kappa-operator") as connection, self._serve():
            client = Client(connection, names.FIELD_MANAGER)
            lease = Lease(client, settings.namespace, settings.lease_name, settings.identity, times)
            if not await self._unless_stopped(lease.acquire()):
                return 0
            return await self._lead(connection, lease)

    async def _lead(self, connection: Connection, lease: Lease) -> int:
        """Lead until a stop is requested, or until the Lease or any part is lost."""
        settings, metrics, health, queue = self._settings, self._metrics, self._health, self._queue
        platform, pool_settings = settings.platform(), settings.pools()
        api = Client(connection, names.FIELD_MANAGER, lease.held)
        scaler_api = scale_api.KubeScaleApi(Client(connection, scale_api.FIELD_MANAGER, lease.held))
        cache = Cache()
        pool_queue = WorkQueue(POOL_WORKERS, _pool_failed)
        pools = Pools(api, cache, platform, pool_settings, pool_queue.add)
        scaler = Scaler(scaler_api, cache.pods_for, observe=metrics.scale)
        probes = InitProbes(queue.add)
        verifier = Verifier(scaler, settings.verify_concurrency, settings.verify_timeout)
        events = EventRecorder(api, settings.identity)
        retire = Retirement(api, metrics.pool_pod)
        claims = Claims(cache, settings.name, queue.add, pools.claimed, retire)
        adoption = Adoption(api, cache, platform, pool_settings, scaler, claims, retire, observe=metrics.pool_pod)
        reconciler = Reconciler(
            api, cache, platform, settings.gateway_url, scaler, verifier, probes, events, adoption, pool_settings
        )
        streams = DemandStreams(Listeners(scaler, claims), settings.demand_timeout)
        relister = Relister(api, cache, settings.namespaces, settings.function_selector, settings.name)
        metrics.gauge("queue_depth", "Functions that wait to be reconciled.", lambda: float(len(queue)))
        metrics.gauge("functions", "Functions served.", lambda: float(len(cache.functions)))
        metrics.gauge("pool_pods", "Free pods in warm pools.", lambda: float(len(cache.free_pods())))
        metrics.gauge("unverified", "Pod templates that were not seen to start yet.", lambda: float(len(verifier)))
        metrics.gauge("demand_streams", "Gateways whose demand is known.", lambda: float(len(streams.connected)))

        health.leading = True
        keeping = asyncio.create_task(lease.keep(), name="lease")
        ours: list[asyncio.Task[Any]] = []
        kopf_stop, kopf_task = asyncio.Event(), None
        try:
            if not await self._unless_stopped(self._first_list(relister, queue, pools), keeping):
                return self._verdict([keeping])
            health.synced = True
            running: dict[str, Coroutine[Any, Any, None]] = {
                "work queue": queue.run(lambda key: self._timed(reconciler, key)),
                "pool queue": pool_queue.run(pools.reconcile),
                "claims": claims.run(),
                "scaler": scaler.run(),
                "init probes": probes.run(),
                "events": events.run(),
                "demand streams": streams.run(),
                "relist": self._relist_now_and_then(relister, queue, pools),
            }
            if settings.gateways:
                streams.set_gateways({url: url for url in settings.gateways})
            else:
                running["gateway watch"] = gateways.follow(api, settings.namespace, streams.set_gateways)
            ours += [asyncio.create_task(part, name=name) for name, part in running.items()]

            def look_at(key: str) -> None:
                pools.look(key)
                queue.add(key)

            watcher = watch.Watcher(cache, look_at, pool_queue.add, settings.name)
            registry = watch.registry(watcher, connection.configuration)
            kopf_task = await self._start_kopf(registry, relister.served, kopf_stop)
            await self._first_of(keeping, kopf_task, *ours)
            code = self._verdict([keeping, kopf_task, *ours])
            if not keeping.done():
                pool_queue.stop()
                await self._drain(queue, verifier)
            return code
        finally:
            health.leading = False
            # When kopf stops it waits for, and cancels, every task that was made after it: so ours end first.
            for part in (keeping, *ours):
                part.cancel()
            await asyncio.gather(keeping, *ours, return_exceptions=True)
            await lease.release()
            kopf_stop.set()
            if kopf_task is not None:
                await asyncio.wait([kopf_task], timeout=KOPF_STOP_SECONDS)

    async def _timed(self, reconciler: Reconciler, key: str) -> float | None:
        started = time.perf_counter()
        try:
            return await reconciler.reconcile(key)
        finally:
            self._metrics.reconcile_seconds.observe(time.perf_counter() - started)
            self._health.progress()

    def _reconcile_failed(self, key: str, error: Exception) -> None:
        self._metrics.reconcile_errors.inc()
        logger.warning(
            "cannot reconcile, will try again",
            extra={"function": key, "error": str(error) or type(error).__name__},
            exc_info=None if isinstance(error, KubeError) else error,
        )

    async def _start_kopf(
        self, registry: kopf.OperatorRegistry, namespaces: list[str], stop: asyncio.Event
    ) -> asyncio.Task[None]:
        settings = self._settings
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=watch.settings(settings.function_selector),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )
        # kopf has set its own handlers; these replace them, so that the order of stopping is ours.
        self._catch_signals()
        return asyncio.create_task(kopf.run_tasks(tasks, ignored=others), name="kopf")

    async def _first_of(self, *tasks: asyncio.Task[Any]) -> None:
        """Until one of them ends, or a stop is requested."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()

    def _verdict(self, parts: list[asyncio.Task[Any]]) -> int:
        """0 if a stop was requested, else 1, with a log line that says why."""
        for part in parts:
            if not part.done() or part.cancelled():
                continue
            error = part.exception()
            if isinstance(error, LeaseLost):
                logger.error("leading no more, stopping", extra={"reason": str(error)})
            elif not self._stop.is_set():
                logger.error(
                    "a part of the operator has ended, stopping", extra={"part": part.get_name()}, exc_info=error
                )
            else:
                continue
            return 1
        return 0

    async def _first_list(self, relister: Relister, queue: WorkQueue, pools: Pools) -> None:
        while True:
            try:
                await self._relist(relister, queue, pools)
                return
            except RequestFailed as error:
                hint = ""
                if isinstance(error, ApiError) and error.status == 404:
                    hint = "the Function CRD is not installed: kubectl apply -f crds/"
                logger.warning("cannot list, will try again", extra={"error": str(error), "hint": hint})
                await asyncio.sleep(RELIST_RETRY)

    async def _relist(self, relister: Relister, queue: WorkQueue, pools: Pools) -> None:
        started = time.perf_counter()
        keys = await relister.relist()
        pools.relisted()
        for key in sorted(keys):
            queue.add(key)
        seconds = time.perf_counter() - started
        self._metrics.relist_seconds.observe(seconds)
        logger.info("listed", extra={"functions": len(keys), "seconds": round(seconds, 3)})

    async def _relist_now_and_then(self, relister: Relister, queue: WorkQueue, pools: Pools) -> None:
        """Ends when other namespaces can be served than before: kopf watches what it was started with."""
        served = relister.served
        while True:
            await asyncio.sleep(self._settings.resync_interval)
            try:
                await self._relist(relister, queue, pools)
            except RequestFailed as error:
                logger.warning("cannot list, will try again", extra={"error": str(error)})
                continue
            if relister.served != served:
                logger.warning("other namespaces can be served now, restarting", extra={"namespaces": relister.served})
                return

    async def _drain(self, queue: WorkQueue, verifier: Verifier) -> None:
        """Let running reconciles end; start no new ones."""
        verifier.stop()
        queue.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while not queue.idle and time.monotonic() < deadline:  # noqa: ASYNC110 - a stop, bounded and rare
            await asyncio.sleep(0.02)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None], *others: asyncio.Task[Any]) -> bool:
        """Await `work`; False if the stop, or one of `others`, came first. Raises what `work` raises."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([task, stop, *others], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return not self._stop.is_set()
            return False
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    @contextlib.asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        self._metrics.gauge("leader", "1 while this replica leads.", lambda: float(self._health.leading))
        app = application(self._health, self._metrics.registry)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._settings.host, self._settings.port)
            await site.start()
            logger.info("serving health and metrics", extra={"port": runner.addresses[0][1]})
            yield
        finally:
            await runner.cleanup()


def _pool_failed(key: str, error: Exception) -> None:
    logger.warning(
        "cannot bring a warm pool to its size, will try again",
        extra={"pool": key, "error": str(error) or type(error).__name__},
    )
