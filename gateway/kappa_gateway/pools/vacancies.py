"""The free pods of all pools, each with a connection that waits for the request that will make it a function's.

One owned task per pod: it dials the pod as soon as its address is known, asks until its agent says that it is a pool's,
and asks again every few seconds over the same connection. So the connection stays open, and a pod that another gateway
took is noticed before the platform says so.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from kappa_core import wire
from kappa_core.errors import KappaError
from kappa_gateway.backend import Pod, PoolPod
from kappa_gateway.connection import Connection
from kappa_gateway.dialer import READY_WAIT, ask_ready, pause, read_ready
from kappa_gateway.state import FunctionState, PodState
from kappa_gateway.upstream import Pool, Upstream

logger = logging.getLogger(__name__)

REFRESH: Final = 10.0
"""Seconds between questions to a free pod; far less than an agent keeps an idle connection."""
_ANSWER_TIMEOUT: Final = 5.0

PoolKey = tuple[str, str]
"""(namespace, runtime)"""


class _WarmPool(Pool):
    """The connections to a free pod; `broken` is set when one is lost."""

    __slots__ = ("broken",)

    def __init__(self, upstream: Upstream, pod: PodState) -> None:
        super().__init__(upstream, pod)
        self.broken = asyncio.Event()

    def lost(self, connection: Connection) -> None:
        super().lost(connection)
        self.broken.set()


class Vacancy:
    """A pod of a pool that nobody is known to have taken."""

    __slots__ = ("free", "pod", "pool", "task", "weight")

    def __init__(self, pod: PoolPod, pool: _WarmPool, weight: bytes) -> None:
        self.pod = pod
        self.pool = pool
        self.free = False
        """Its agent said that it is a pool's, and has a runtime process that waits."""
        self.weight = weight
        self.task: asyncio.Task[None] | None = None


class Vacancies:
    """`gateway` is this gateway's name; `on_free(namespace, runtime)` is called when a pod can be claimed."""

    def __init__(self, upstream: Upstream, gateway: str, on_free: Callable[[str, str], None]) -> None:
        self._upstream = upstream
        self._gateway = gateway
        self._on_free = on_free
        self._pools: dict[PoolKey, dict[str, Vacancy]] = {}
        self._places: dict[PoolKey, FunctionState] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Vacancy]:
        return (vacancy for pool in self._pools.values() for vacancy in pool.values())

    def add(self, pod: PoolPod) -> None:
        """A pool pod is there; one without an address is not dialled yet."""
        key = (pod.namespace, pod.runtime)
        pods = self._pools.setdefault(key, {})
        known = pods.get(pod.name)
        if known is not None:
            if (known.pod.uid, known.pod.host, known.pod.port) == (pod.uid, pod.host, pod.port):
                return
            self.remove(pod.namespace, pod.name)
            pods = self._pools.setdefault(key, {})
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = FunctionState(pod.namespace, f"the pool of {pod.runtime}")
        stand_in = PodState(Pod(pod.namespace, pod.name, "", pod.host, pod.port, 1, "lambda"), place, 0.0)
        # Another order at each gateway, so that they do not all reach for the same pod first.
        weight = hashlib.blake2b(f"{self._gateway}\0{pod.uid}".encode(), digest_size=8).digest()
        vacancy = pods[pod.name] = Vacancy(pod, _WarmPool(self._upstream, stand_in), weight)
        if pod.host is not None:
            vacancy.task = self._upstream.loop.create_task(self._keep(vacancy), name=f"pool pod {pod.name}")

    def remove(self, namespace: str, name: str) -> Vacancy | None:
        """The pod is no longer free, or gone."""
        for key, pods in self._pools.items():
            if key[0] == namespace and name in pods:
                vacancy = self._take_out(key, name)
                vacancy.pool.close()
                return vacancy
        return None

    def free(self, namespace: str, runtime: str) -> int:
        return sum(vacancy.free for vacancy in self._pools.get((namespace, runtime), {}).values())

    def is_free(self, namespace: str, runtime: str, name: str) -> bool:
        vacancy = self._pools.get((namespace, runtime), {}).get(name)
        return vacancy is not None and vacancy.free

    def known(self, namespace: str, runtime: str) -> int:
        return len(self._pools.get((namespace, runtime), ()))

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many pods each (namespace, runtime, state) has; may be called on any thread."""
        found: dict[tuple[str, str, str], int] = {}
        for key, pods in list(self._pools.items()):
            free = sum(vacancy.free for vacancy in list(pods.values()))
            found[*key, "free"], found[*key, "starting"] = free, len(pods) - free
        return found

    def take(self, namespace: str, runtime: str) -> Vacancy | None:
        """A free pod, with its connections; it is no longer among the free ones."""
        pods = self._pools.get((namespace, runtime), {})
        free = [vacancy for vacancy in pods.values() if vacancy.free]
        if not free:
            return None
        # one whose connection stands; while it is being asked, it does not
        best = max(free, key=lambda vacancy: (bool(vacancy.pool.idle), vacancy.weight))
        return self._take_out((namespace, runtime), best.pod.name)

    async def close(self) -> None:
        tasks = [vacancy.task for vacancy in self if vacancy.task is not None]
        for vacancy in list(self):
            self.remove(vacancy.pod.namespace, vacancy.pod.name)
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)

    # -- inside

    def _take_out(self, key: PoolKey, name: str) -> Vacancy:
        pods = self._pools[key]
        vacancy = pods.pop(name)
        if not pods:
            del self._pools[key]
            self._places.pop(key, None)
        vacancy.free = False
        if vacancy.task is not None and not vacancy.task.done():
            self._ending.add(vacancy.task)
            vacancy.task.add_done_callback(self._ending.discard)
            vacancy.task.cancel()
        return vacancy

    async def _keep(self, vacancy: Vacancy) -> None:
        begun = time.monotonic()
        while True:
            try:
                connection = await vacancy.pool.connect(0.1 if time.monotonic() - begun < 5.0 else 1.0)
            except OSError:
                vacancy.free = False
                await asyncio.sleep(pause(time.monotonic() - begun, 1))
                continue
            begun = time.monotonic()
            if await self._follow(vacancy, connection):
                return
            await asyncio.sleep(pause(time.monotonic() - begun, 1))

    async def _follow(self, vacancy: Vacancy, connection: Connection) -> bool:
        """Ask over this connection until it breaks (False), or the pod is seen to be somebody's, or to end (True)."""
        pool = vacancy.pool
        while True:
            wait = 0 if vacancy.free else READY_WAIT
            try:
                status, body = await ask_ready(connection, vacancy.pod.host or "", wait, wait + _ANSWER_TIMEOUT)
            except KappaError:
                vacancy.free = False
                connection.close()
                return False
            except asyncio.CancelledError:
                connection.close()
                raise
            state, function = read_ready(body)
            if function or state == wire.DRAINING or (status == 200 and state != wire.POOL):
                vacancy.free = False
                logger.debug("a pool pod is taken", extra={"pod": vacancy.pod.name, "function": function})
                connection.close()
                return True
            if status != 200:
                vacancy.free = False
                await asyncio.sleep(0.01)
                if connection.transport.is_closing():
                    return False
                continue
            pool.broken.clear()
            pool.put(connection)
            if not vacancy.free:
                vacancy.free = True
                logger.debug("a pool pod is free", extra={"pod": vacancy.pod.name, "runtime": vacancy.pod.runtime})
                self._on_free(vacancy.pod.namespace, vacancy.pod.runtime)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    await pool.broken.wait()
            if pool.take() is not connection:
                return False
