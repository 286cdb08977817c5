"""Archives for pool pods: fetched once, verified by their hash, and cached in memory up to a limit.

A small one travels in the specialize request. A larger one the pod fetches from this gateway's internal port, where
knowing the hash is the right to read it. An archive that is not cached, the pod fetches from the Function's URL, as it
would without a pool: no request waits for this cache. Only http and https are fetched here, because s3 needs the
function's own credentials.
"""

import asyncio
import hashlib
import logging
import socket
from collections import OrderedDict
from typing import Any, Final

import aiohttp

from kappa_core import wire
from kappa_core.agent_config import AgentConfig
from kappa_core.function import ArchiveCode
from kappa_gateway.settings import Settings
from kappa_gateway.transport import addresses

logger = logging.getLogger(__name__)

IN_BODY_BYTES: Final = 256 * 1024
"""The largest archive that travels in the request."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=120, sock_connect=10, sock_read=20)
_AT_A_TIME: Final = 2
_PAUSE: Final = 60.0
"""Seconds until an archive that could not be fetched is tried again."""


class CodeCache:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        """By hash, the one used last at the end."""
        self._size = 0
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, float] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._session: aiohttp.ClientSession | None = None

    def get(self, sha256: str) -> bytes | None:
        """An archive that is cached."""
        content = self._kept.get(sha256)
        if content is not None:
            self._kept.move_to_end(sha256)
        return content

    def for_pod(self, archive: ArchiveCode, config: AgentConfig) -> tuple[bytes, AgentConfig]:
        """The code for the specialize request's body, and the config that says where the pod gets what is not in it."""
        content = self.get(archive.sha256)
        if content is None:
            self.prefetch(archive)
        elif len(content) <= IN_BODY_BYTES:
            return content, config
        elif self._settings.address and self._settings.internal_port > 0:
            host = f"[{self._settings.address}]" if ":" in self._settings.address else self._settings.address
            url = f"http://{host}:{self._settings.internal_port}{wire.CODE_PATH}{archive.sha256}"
            return b"", config.replace(code_archive_copy=url)
        return b"", config

    def prefetch(self, archive: ArchiveCode) -> None:
        """Fetch it ahead of a cold start."""
        key = archive.sha256
        if not self._settings.code_cache_bytes or not archive.url.startswith(("https://", "http://")):
            return
        loop = asyncio.get_running_loop()
        if key in self._kept or key in self._fetching or self._failed.get(key, 0.0) > loop.time():
            return
        task = self._fetching[key] = loop.create_task(self._fetch(archive), name=f"archive {key[:12]}")
        task.add_done_callback(lambda _: self._fetching.pop(key, None))

    def keep(self, sha256: str, content: bytes) -> None:
        """Add an archive; those used longest ago make room."""
        if len(content) > self._settings.code_cache_bytes or sha256 in self._kept:
            return
        self._kept[sha256] = content
        self._size += len(content)
        while self._size > self._settings.code_cache_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)

    async def close(self) -> None:
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # -- inside

    async def _fetch(self, archive: ArchiveCode) -> None:
        try:
            async with self._slots:
                content = await self._download(archive.url)
        except (aiohttp.ClientError, OSError, _Unfit) as error:
            self._failed[archive.sha256] = asyncio.get_running_loop().time() + _PAUSE
            # its query may be a signature
            logger.info(
                "an archive cannot be had here, so pool pods fetch it themselves: %s",
                str(error) or type(error).__name__,
                extra={"url": archive.url.partition("?")[0]},
            )
            return
        found = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        if found == archive.sha256:
            self.keep(found, content)
        else:
            # the pod's own error informs the function's owner
            self._failed[archive.sha256] = asyncio.get_running_loop().time() + _PAUSE

    async def _download(self, url: str) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_AT_A_TIME, socket_factory=self._socket),
                timeout=_TIMEOUT,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        limit = self._settings.code_cache_bytes // 4
        async with self._session.get(url) as answer:
            if answer.status != 200:
                raise _Unfit(f"the server answered {answer.status}")
            content = bytearray()
            async for chunk in answer.content.iter_chunked(256 * 1024):
                content += chunk
                if len(content) > limit:
                    raise _Unfit(f"it is larger than {limit} bytes, a quarter of code_cache_bytes")
            return bytes(content)

    def _socket(self, found: Any) -> socket.socket:  # aiohttp's AddrInfoType is not exported
        # whoever may write a Function chooses the URL, and the gateway dials it
        family, kind, protocol, _, address = found
        refusal = addresses.refusal(str(address[0]), self._settings.delivery_addresses)
        if refusal is not None:
            raise OSError(refusal)
        return socket.socket(family, kind, protocol)


class _Unfit(Exception):
    """The archive is not for this cache; the message says why."""
