"""Reading every gateway's demand stream: one task per gateway, which reconnects, and passes each report to a sink."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

import aiohttp

from kappa_core import demand, wire

logger = logging.getLogger(__name__)

FIRST_RETRY: Final = 0.1
LONGEST_RETRY: Final = 2.0
MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of one report: 10,000 functions with their pods fit many times."""


class Sink(Protocol):
    def connected(self, gateway: str) -> None: ...
    def disconnected(self, gateway: str) -> None: ...
    def report(self, gateway: str, report: demand.DemandReport) -> None: ...


class ClaimSink(Protocol):
    def report(self, gateway: str, report: demand.DemandReport) -> None: ...


class Listeners:
    """One sink for two. Scaling gets a report first, because a cold start waits for it; then the claims."""

    def __init__(self, scaler: Sink, claims: ClaimSink) -> None:
        self._claims = claims
        self._scaler = scaler

    def connected(self, gateway: str) -> None:
        self._scaler.connected(gateway)

    def disconnected(self, gateway: str) -> None:
        self._scaler.disconnected(gateway)

    def report(self, gateway: str, report: demand.DemandReport) -> None:
        self._scaler.report(gateway, report)
        self._claims.report(gateway, report)


class DemandStreams:
    """`set_gateways` sets which to follow (name → base URL); `run` holds the session until cancelled."""

    def __init__(self, sink: Sink, timeout: float) -> None:
        self._sink = sink
        self._timeout = timeout
        self._tasks: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._gateways: Mapping[str, str] = {}
        self.connected: set[str] = set()

    async def run(self) -> None:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=self._timeout)
        async with aiohttp.ClientSession(timeout=limits, read_bufsize=2**18, trust_env=False) as session:
            self._session = session
            self.set_gateways(self._gateways)
            try:
                await asyncio.Event().wait()
            finally:
                self._session = None
                tasks = [task for _, task in self._tasks.values()]
                self._tasks.clear()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def set_gateways(self, gateways: Mapping[str, str]) -> None:
        """Follow these gateways, and no others."""
        self._gateways = dict(gateways)
        if self._session is None:
            return
        for name, (url, task) in list(self._tasks.items()):
            if gateways.get(name) != url or task.done():
                task.cancel()
                del self._tasks[name]
        for name, url in gateways.items():
            if name not in self._tasks:
                task = asyncio.create_task(self._follow(name, url, self._session), name=f"demand of {name}")
                self._tasks[name] = (url, task)

    async def _follow(self, name: str, url: str, session: aiohttp.ClientSession) -> None:
        retry = FIRST_RETRY
        while True:
            try:
                async with session.get(f"{url.rstrip('/')}{wire.DEMAND_PATH}") as response:
                    response.raise_for_status()
                    async for line in _lines(response.content):
                        report = demand.decode(line)
                        if name not in self.connected and report.full:
                            # Only a full report shows what the gateway does not need.
                            self.connected.add(name)
                            self._sink.connected(name)
                            logger.info("demand stream connected", extra={"gateway": name, "url": url})
                            retry = FIRST_RETRY
                        self._sink.report(name, report)
                problem = "the gateway ended the stream"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                problem = str(error) or type(error).__name__
            finally:
                if name in self.connected:
                    self.connected.discard(name)
                    self._sink.disconnected(name)
            logger.info(
                "demand stream lost", extra={"gateway": name, "url": url, "problem": problem, "retry_in": retry}
            )
            await asyncio.sleep(retry)
            retry = min(LONGEST_RETRY, retry * 2)


async def _lines(content: aiohttp.StreamReader):  # type: ignore[no-untyped-def]  # an async generator of bytes
    """Lines of any length up to `MAX_LINE`; StreamReader.readline is bound by its buffer."""
    pending = bytearray()
    async for chunk in content.iter_any():
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            if line:
                yield line
        if len(pending) > MAX_LINE:
            raise ValueError(f"a report longer than {MAX_LINE} bytes")
