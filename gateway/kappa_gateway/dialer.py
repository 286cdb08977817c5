"""Calls pods until they answer: one owned task per pod that starts, from the moment its address is known.

A pod is dialled every few milliseconds rather than waited for: the kubelet's readiness comes up to a second later.
Once TCP is accepted, `GET /readyz?wait=…` on that very connection tells when the runtime process asks for work; the
connection then serves the first invocation. With protocol http, a pod that accepts TCP is ready.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Final

from kappa_core import wire
from kappa_core.errors import KappaError
from kappa_gateway.connection import Connection
from kappa_gateway.dispatcher import Dispatcher
from kappa_gateway.state import PodState, PodStatus
from kappa_gateway.upstream import Pool, Upstream

logger = logging.getLogger(__name__)

READY_WAIT: Final = 20
"""Seconds for which an agent is asked to hold its answer."""
_FAILED_PAUSE: Final = 1.0
"""Seconds between looks at a pod whose init failed."""
_DIALS_PER_SECOND: Final = 4000
"""Of all pods together: with many pods starting at once, each is dialled less often."""


def pause(elapsed: float, dialling: int) -> float:
    """Seconds until the next attempt: 5 ms at first, less often for a pod that takes long or among many."""
    if elapsed < 1.0:
        base = 0.005
    elif elapsed < 5.0:
        base = 0.01
    elif elapsed < 60.0:
        base = 0.1
    else:
        base = 1.0
    return max(base, dialling / _DIALS_PER_SECOND)


class Dialer:
    """`clock` gives seconds since the epoch, for the phases of cold starts; `on_pool_pod` is called with a pod whose agent
    says that it is no function's, or another's."""

    def __init__(self, dispatcher: Dispatcher, upstream: Upstream, clock: Callable[[], float] = time.time) -> None:
        self.on_pool_pod: Callable[[PodState], None] = lambda _: None
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._clock = clock
        self._tasks: dict[PodState, asyncio.Task[None]] = {}

    def dial(self, pod: PodState) -> None:
        """Start calling this pod, unless that is being done. Ends by itself when the pod is ready or gone."""
        if pod in self._tasks or pod.status in (PodStatus.DRAINING, PodStatus.GONE) or pod.pod.host is None:
            return
        task = self._upstream.loop.create_task(self._dial(pod), name=f"dial {pod.pod.namespace}/{pod.pod.name}")
        self._tasks[pod] = task
        task.add_done_callback(lambda done: self._ended(pod, done))

    def stop(self, pod: PodState) -> None:
        task = self._tasks.get(pod)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, pod: PodState, task: asyncio.Task[None]) -> None:
        self._tasks.pop(pod, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("dialling a pod failed", exc_info=error, extra={"pod": pod.pod.name})

    async def _dial(self, pod: PodState) -> None:
        begun = time.monotonic()
        while pod.status not in (PodStatus.DRAINING, PodStatus.GONE):
            pool = self._upstream.pool(pod)
            try:
                # A SYN that is lost while the pod's network is set up would be sent again only after a second.
                connection = await pool.connect(0.1 if time.monotonic() - begun < 5.0 else 1.0)
            except OSError:
                await asyncio.sleep(pause(time.monotonic() - begun, len(self._tasks)))
                continue
            if pod.accepted_at is None:
                pod.accepted_at = self._clock()
            if pod.pod.protocol == "http":
                self._ready(pod, pool, connection)
                return
            if await self._until_ready(pod, pool, connection):
                return
            await asyncio.sleep(pause(time.monotonic() - begun, len(self._tasks)))

    async def _until_ready(self, pod: PodState, pool: Pool, connection: Connection) -> bool:
        """Ask the agent until it is ready (True), or its connection breaks (False)."""
        while pod.status not in (PodStatus.DRAINING, PodStatus.GONE):
            try:
                status, body = await ask_ready(connection, pod.pod.host or "", READY_WAIT, READY_WAIT + 10)
            except KappaError:
                return False
            except asyncio.CancelledError:
                connection.close()
                raise
            state, function = read_ready(body)
            if state == wire.POOL or (function and function != pod.function.key):
                # not ours, or not any more: the request that was to make it ours did not arrive
                connection.close()
                self.on_pool_pod(pod)
                return True
            if status == 503 and state == wire.INIT_FAILED:
                if pod.status is not PodStatus.INIT_FAILED:
                    logger.info("a pod's init failed", extra={"function": pod.function.key, "pod": pod.pod.name})
                    self._dispatcher.set_status(pod, PodStatus.INIT_FAILED)
                await asyncio.sleep(_FAILED_PAUSE)
            elif status == 503 and state == wire.DRAINING:
                connection.close()
                self._dispatcher.set_status(pod, PodStatus.DRAINING)
                return True
            elif status == 503:
                await asyncio.sleep(0.01)
            else:
                # 200, or 404 from an image that serves Lambda's interface without our readiness
                self._ready(pod, pool, connection)
                return True
            if connection.transport.is_closing():
                return False
        connection.close()
        return True

    def _ready(self, pod: PodState, pool: Pool, connection: Connection) -> None:
        if pod.ready_at is None:
            pod.ready_at = self._clock()
        if connection.complete and connection.keep_alive:
            pool.put(connection)
        else:
            connection.close()
        logger.debug("pod is ready", extra={"function": pod.function.key, "pod": pod.pod.name})
        self._dispatcher.set_status(pod, PodStatus.READY)


async def ask_ready(connection: Connection, host: str, wait: int, timeout: float) -> tuple[int, bytes]:
    """Status and body of the agent's readiness, which it may hold for `wait` seconds.

    Raises `KappaError` when the connection breaks, or no answer comes within `timeout` seconds.
    """
    connection.begin(time.monotonic() + timeout)
    try:
        connection.write(f"GET {wire.READY_PATH}?wait={wait} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await connection.head()
        body = b""
        while (chunk := await connection.chunk()) is not None:
            body = (body + chunk)[:65536]
        return connection.status, body
    finally:
        connection.active = False
        connection.pool.upstream.active.discard(connection)


def read_ready(body: bytes) -> tuple[str, str]:
    """The state and the function (`namespace/name`) that an agent's readiness names; empty where there is none."""
    try:
        answer = json.loads(body)
        return str(answer.get("state", "")), str(answer.get("function", ""))
    except (ValueError, AttributeError):
        return "", ""
