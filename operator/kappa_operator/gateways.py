"""Which gateways there are: the gateway pods of the operator's own namespace, watched."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from kappa_core import names
from kappa_operator import paths
from kappa_operator.client import Api, ApiError, Json

log = logging.getLogger(__name__)

SELECTOR: Final = f"{names.LABEL_NAME}=kappa,{names.LABEL_COMPONENT}={names.COMPONENT_GATEWAY}"
IDLE_TIMEOUT: Final = 75.0
"""Seconds; the API server sends a bookmark every minute."""
RETRY: Final = 1.0


class GatewayWatch:
    def __init__(self, api: Api, namespace: str, on_change: Callable[[Mapping[str, str]], None]) -> None:
        self._api = api
        self._path = paths.collection(paths.PODS, namespace)
        self._on_change = on_change
        self._urls: dict[str, str] = {}

    async def run(self) -> None:
        while True:
            try:
                await self._list_and_watch()
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                log.warning("cannot watch the gateway pods, will try again", extra={"error": str(error)})
            await asyncio.sleep(RETRY)

    async def _list_and_watch(self) -> None:
        page = await self._api.get(self._path, labelSelector=SELECTOR)
        self._urls.clear()
        for pod in page["items"]:
            self._take(pod, gone=False)
        self._on_change(self._urls)
        version = page["metadata"]["resourceVersion"]
        query = {"labelSelector": SELECTOR, "resourceVersion": version, "timeoutSeconds": 300}
        async for event in self._api.watch(self._path, IDLE_TIMEOUT, **query):
            if event["type"] == "ERROR":
                return
            if event["type"] != "BOOKMARK":
                self._take(event["object"], gone=event["type"] == "DELETED")
                self._on_change(self._urls)

    def _take(self, pod: Json, *, gone: bool) -> None:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        address = status.get("podIP")
        # One that drains still has requests in flight: its demand counts until it is gone.
        if gone or not address or status.get("phase") in ("Succeeded", "Failed"):
            self._urls.pop(name, None)
            return
        host = f"[{address}]" if ":" in address else address
        self._urls[name] = f"http://{host}:{names.GATEWAY_INTERNAL_PORT}"
