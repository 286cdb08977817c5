"""The free pods of all pools, each with a connection that waits for the request that will specialize it.

One owned task per pod: it dials the pod as soon as its address is known, asks until its agent says that it is in a
pool, and asks again every few seconds over the same connection. So the connection stays open, and a pod that another
gateway took is noticed before the platform shows it.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kappa_core import wire
from kappa_core.errors import KappaError
from kappa_gateway.pods.platform import PoolPod
from kappa_gateway.pods.readiness import READY_WAIT, ask_ready, connect_timeout, pause, read_ready
from kappa_gateway.transport.connection import Connection
from kappa_gateway.transport.endpoint import Endpoint, Upstream

logger = logging.getLogger(__name__)

REFRESH: Final = 10.0
"""Seconds between questions to a free pod; far less than an agent keeps an idle connection."""
SHUN: Final = 60.0
"""Seconds for which a pod that refused for another reason than being taken is left alone."""
_ANSWER_TIMEOUT: Final = 5.0

PoolKey = tuple[str, str]
"""(namespace, runtime)"""
PodKey = tuple[str, str]
"""(namespace, pod's name)"""


class FreePod:
    """A pool pod that no gateway is known to have claimed."""

    __slots__ = ("broken", "endpoint", "is_free", "pod", "task", "weight")

    def __init__(self, pod: PoolPod, weight: bytes) -> None:
        self.pod = pod
        self.weight = weight
        self.broken = asyncio.Event()
        """Set when a connection to it is lost."""
        self.endpoint: Endpoint | None = None
        """None until its address is known."""
        self.is_free = False
        """Its agent said that it is in a pool and has a runtime process that waits."""
        self.task: asyncio.Task[None] | None = None


class FreePods:
    """`gateway` is this gateway's name. `prepare` is called before the first pod is dialled."""

    def __init__(self, upstream: Upstream, gateway: str, prepare: Callable[[], None]) -> None:
        self._upstream = upstream
        self._gateway = gateway
        self._prepare = prepare
        self._listed: dict[PodKey, PoolPod] = {}
        """As the platform shows them."""
        self._claimed: set[PodKey] = set()
        """Taken out by this gateway, though the platform may list them still."""
        self._shunned: dict[str, float] = {}
        """Pod uid → until when (monotonic) it is not dialled."""
        self._pools: dict[PoolKey, dict[str, FreePod]] = {}
        self._listeners: list[Callable[[str, str], None]] = []
        self._ending: set[asyncio.Task[None]] = set()

    def subscribe(self, listener: Callable[[str, str], None]) -> None:
        """`listener(namespace, runtime)` is called when a pod becomes free."""
        self._listeners.append(listener)

    # -- what the platform shows

    def replace(self, pods: Iterable[PoolPod]) -> list[PodKey]:
        """The complete list. Returns the pods that are no longer in a pool."""
        given = {(one.namespace, one.name): one for one in pods}
        gone = [key for key in self._listed if key not in given]
        for key in gone:
            self.remove(*key)
        for one in given.values():
            self.put(one)
        return gone

    def put(self, pod: PoolPod) -> None:
        key = (pod.namespace, pod.name)
        self._listed[key] = pod
        if pod.leaving:
            self.drop(key)
        elif key not in self._claimed and self._shunned.get(pod.uid, 0.0) < time.monotonic():
            self._add(pod)

    def remove(self, namespace: str, name: str) -> None:
        """It has left its pool, or is gone."""
        known = self._listed.pop((namespace, name), None)
        if known is not None:
            self._shunned.pop(known.uid, None)
        self.drop((namespace, name))

    def drop(self, key: PodKey) -> None:
        """It is not to be claimed: it has a function, or is about to end."""
        for pool, pods in self._pools.items():
            if pool[0] == key[0] and key[1] in pods:
                one = self._take_out(pool, key[1])
                if one.endpoint is not None:
                    one.endpoint.retire()
                return

    def is_listed(self, key: PodKey) -> bool:
        """Whether the platform shows it in a pool."""
        return key in self._listed

    # -- claiming

    def take(self, namespace: str, runtime: str) -> FreePod | None:
        """Take a free pod. The caller owns it, and must call `release` or `settle`."""
        free = [one for one in self._pools.get((namespace, runtime), {}).values() if one.is_free]
        if not free:
            return None
        # one whose connection is open; while it is being asked, it has none
        best = max(free, key=lambda one: (one.endpoint is not None and bool(one.endpoint.idle), one.weight))
        self._take_out((namespace, runtime), best.pod.name)
        self._claimed.add((namespace, best.pod.name))
        return best

    def release(self, pod: PoolPod, *, shun: float = 0.0) -> None:
        """A claimed pod has no function after all: free again, after `shun` seconds, if it is still in its pool."""
        key = (pod.namespace, pod.name)
        self._claimed.discard(key)
        if shun:
            self._shunned[pod.uid] = time.monotonic() + shun
            if shun != float("inf"):
                self._upstream.loop.call_later(shun + 0.1, self._look_again, key)
        else:
            self._look_again(key)

    def settle(self, pod: PoolPod) -> None:
        """A claimed pod has become a function's pod, or is gone."""
        self._claimed.discard((pod.namespace, pod.name))

    # -- how many there are

    def free(self, namespace: str, runtime: str) -> int:
        return sum(one.is_free for one in self._pools.get((namespace, runtime), {}).values())

    def known(self, namespace: str, runtime: str) -> int:
        """Free ones, and those that start."""
        return len(self._pools.get((namespace, runtime), ()))

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many pods each (namespace, runtime, state) has; may be called on any thread."""
        found: dict[tuple[str, str, str], int] = {}
        for key, pods in list(self._pools.items()):
            free = sum(one.is_free for one in list(pods.values()))
            found[*key, "free"], found[*key, "starting"] = free, len(pods) - free
        return found

    async def close(self) -> None:
        tasks = [one.task for one in self._all() if one.task is not None]
        for one in list(self._all()):
            self.drop((one.pod.namespace, one.pod.name))
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)

    # -- inside

    def _all(self) -> Iterator[FreePod]:
        return (one for pool in self._pools.values() for one in pool.values())

    def _look_again(self, key: PodKey) -> None:
        known = self._listed.get(key)
        if known is not None:
            self.put(known)

    def _add(self, pod: PoolPod) -> None:
        key = (pod.namespace, pod.runtime)
        known = self._pools.get(key, {}).get(pod.name)
        if known is not None:
            if (known.pod.uid, known.pod.host, known.pod.port) == (pod.uid, pod.host, pod.port):
                return
            self.drop((pod.namespace, pod.name))
        self._prepare()
        # Another order at each gateway, so that they do not all reach for the same pod first.
        weight = hashlib.blake2b(f"{self._gateway}\0{pod.uid}".encode(), digest_size=8).digest()
        one = self._pools.setdefault(key, {})[pod.name] = FreePod(pod, weight)
        if pod.host is not None:
            one.endpoint = self._upstream.endpoint(pod.host, pod.port, f"pod {pod.name}", one.broken.set)
            one.task = self._upstream.loop.create_task(self._keep(one, one.endpoint), name=f"pool pod {pod.name}")

    def _take_out(self, key: PoolKey, name: str) -> FreePod:
        pods = self._pools[key]
        one = pods.pop(name)
        if not pods:
            del self._pools[key]
        one.is_free = False
        if one.task is not None and not one.task.done():
            self._ending.add(one.task)
            one.task.add_done_callback(self._ending.discard)
            one.task.cancel()
        return one

    async def _keep(self, one: FreePod, endpoint: Endpoint) -> None:
        begun = time.monotonic()
        while True:
            try:
                connection = await endpoint.connect(connect_timeout(time.monotonic() - begun))
            except OSError:
                one.is_free = False
                await asyncio.sleep(pause(time.monotonic() - begun, 1))
                continue
            begun = time.monotonic()
            if await self._follow(one, endpoint, connection):
                return
            await asyncio.sleep(pause(time.monotonic() - begun, 1))

    async def _follow(self, one: FreePod, endpoint: Endpoint, connection: Connection) -> bool:
        """Ask over this connection until it breaks (False), or the pod reports that it has a function or ends
        (True)."""
        while True:
            wait = 0 if one.is_free else READY_WAIT
            try:
                status, body = await ask_ready(connection, endpoint.host, wait, wait + _ANSWER_TIMEOUT)
            except KappaError:
                one.is_free = False
                connection.close()
                return False
            except asyncio.CancelledError:
                connection.close()
                raise
            state, function = read_ready(body)
            if function or state == wire.DRAINING or (status == 200 and state != wire.POOL):
                one.is_free = False
                logger.debug("a pool pod is taken", extra={"pod": one.pod.name, "function": function})
                connection.close()
                return True
            if status != 200:
                one.is_free = False
                await asyncio.sleep(0.01)
                if connection.transport.is_closing():
                    return False
                continue
            one.broken.clear()
            endpoint.keep(connection)
            if not one.is_free:
                one.is_free = True
                logger.debug("a pool pod is free", extra={"pod": one.pod.name, "runtime": one.pod.runtime})
                for listener in self._listeners:
                    listener(one.pod.namespace, one.pod.runtime)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    await one.broken.wait()
            if endpoint.take() is not connection:
                return False
