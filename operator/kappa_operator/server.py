"""`/healthz`, `/readyz` and `/metrics`."""

import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

STUCK_SECONDS: Final = 120.0
"""Work waits, and none was done for this time: a restart is more likely to help than to harm."""
FRESH_SECONDS: Final = 30.0


class Health:
    """What the probes report. A standby is healthy and ready; a leader must have synced and must get work done.

    `waiting()` is how many Functions wait to be reconciled.
    """

    def __init__(self, waiting: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting = waiting
        self._clock = clock
        self.leading = False
        self.synced = False
        self._last_progress = clock()

    def progress(self) -> None:
        """A Function was reconciled, or there was nothing to do."""
        self._last_progress = self._clock()

    def _behind(self) -> float:
        """Seconds for which work has waited without any being done."""
        if not self._waiting():
            self.progress()
        return self._clock() - self._last_progress

    def healthy(self) -> tuple[bool, str]:
        if self.leading and self._behind() > STUCK_SECONDS:
            return False, f"{self._waiting()} Functions wait and none was reconciled for {self._behind():.0f} s"
        return True, "ok"

    def ready(self) -> tuple[bool, str]:
        if not self.leading:
            return True, "standing by"
        if not self.synced:
            return False, "the first full list is not through yet"
        if self._behind() > FRESH_SECONDS:
            return False, f"{self._waiting()} Functions wait and none was reconciled for {self._behind():.0f} s"
        return True, "leading"


def application(health: Health, registry: CollectorRegistry) -> web.Application:
    def answer(check: Callable[[], tuple[bool, str]]) -> Callable[[web.Request], object]:
        async def handler(_: web.Request) -> web.Response:
            good, text = check()
            return web.Response(text=text + "\n", status=200 if good else 503)

        return handler

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", answer(health.healthy))  # type: ignore[arg-type]  # aiohttp's own handler alias
    app.router.add_get("/readyz", answer(health.ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    return app
