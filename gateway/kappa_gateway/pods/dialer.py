"""Dials pods until they answer: one owned task per pod that starts, from the moment its address is known.

A pod is dialled every few milliseconds rather than waited for: the kubelet's readiness comes up to a second later.
Once TCP is accepted, `GET /readyz?wait=…` on that very connection says when the runtime process asks for work. The
connection then serves the first invocation. With protocol http, a pod that accepts TCP is ready.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from kappa_core import wire
from kappa_core.errors import KappaError
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.readiness import READY_WAIT, ask_ready, connect_timeout, pause, read_ready
from kappa_gateway.pods.state import PodState, PodStatus
from kappa_gateway.pods.warm.claims import Claims
from kappa_gateway.transport.connection import Connection
from kappa_gateway.transport.endpoint import Endpoint

logger = logging.getLogger(__name__)

_FAILED_PAUSE: Final = 1.0
"""Seconds between looks at a pod whose init failed."""


class Dialer:
    """`claims` is notified of pods whose agent says that they have no function, or another one. `wall_clock` gives
    seconds since the epoch, for the phases of cold starts."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        claims: Claims,
        loop: asyncio.AbstractEventLoop,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._dispatcher = dispatcher
        self._claims = claims
        self._loop = loop
        self._wall_clock = wall_clock
        self._tasks: dict[PodState, asyncio.Task[None]] = {}

    def dial(self, pod: PodState) -> None:
        """Start dialling this pod, unless that is under way. The task ends when the pod is ready or gone."""
        endpoint = pod.endpoint
        if pod in self._tasks or pod.status in (PodStatus.DRAINING, PodStatus.GONE) or endpoint is None:
            return
        task = self._loop.create_task(self._dial(pod, endpoint), name=f"dial {'/'.join(pod.key)}")
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
            logger.error("dialling a pod failed", exc_info=error, extra={"pod": pod.name})

    async def _dial(self, pod: PodState, endpoint: Endpoint) -> None:
        begun = time.monotonic()
        while pod.status not in (PodStatus.DRAINING, PodStatus.GONE):
            try:
                connection = await endpoint.connect(connect_timeout(time.monotonic() - begun))
            except OSError:
                await asyncio.sleep(pause(time.monotonic() - begun, len(self._tasks)))
                continue
            if pod.start.accepted is None:
                pod.start.accepted = self._wall_clock()
            if pod.observed.protocol == "http":
                self._ready(pod, endpoint, connection)
                return
            if await self._until_ready(pod, endpoint, connection):
                return
            await asyncio.sleep(pause(time.monotonic() - begun, len(self._tasks)))

    async def _until_ready(self, pod: PodState, endpoint: Endpoint, connection: Connection) -> bool:
        """Ask the agent until it is ready (True), or its connection breaks (False)."""
        while pod.status not in (PodStatus.DRAINING, PodStatus.GONE):
            try:
                status, body = await ask_ready(connection, endpoint.host, READY_WAIT, READY_WAIT + 10)
            except KappaError:
                return False
            except asyncio.CancelledError:
                connection.close()
                raise
            state, function = read_ready(body)
            if state == wire.POOL or (function and function != pod.function.key):
                # the request that was to specialize it did not arrive, or its container was started again
                connection.close()
                self._claims.has_no_function(pod)
                self._dispatcher.changed(pod.function)  # requests that waited for this pod get another one
                return True
            if status == 503 and state == wire.INIT_FAILED:
                if pod.status is not PodStatus.INIT_FAILED:
                    logger.info("a pod's init failed", extra={"function": pod.function.key, "pod": pod.name})
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
                self._ready(pod, endpoint, connection)
                return True
            if connection.transport.is_closing():
                return False
        connection.close()
        return True

    def _ready(self, pod: PodState, endpoint: Endpoint, connection: Connection) -> None:
        if pod.start.ready is None:
            pod.start.ready = self._wall_clock()
        if connection.complete and connection.keep_alive:
            endpoint.keep(connection)
        else:
            connection.close()
        logger.debug("pod is ready", extra={"function": pod.function.key, "pod": pod.name})
        self._dispatcher.set_status(pod, PodStatus.READY)
