"""Passing requests on to the gateway that claims pool pods for their function, over its internal port.

To the gateway that passes a request on, the other one is an endpoint that answers as a pod's agent does. A proof in the
head shows that the request is a gateway's: whoever else reaches the port, a function's pod for example, has no key.

    Kappa-Peer-Proof: SECONDS.HEX      HEX: the keyed hash of "SECONDS REQUEST-ID NAMESPACE/NAME"
    Kappa-Function: NAMESPACE/NAME
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from kappa_core import wire
from kappa_core.errors import KappaError
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.pods.warm.signing import Signer
from kappa_gateway.transport.connection import Connection
from kappa_gateway.transport.endpoint import Endpoint, Upstream

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 0.25
"""Seconds in which another gateway must take a connection."""
NOTIFY_TIMEOUT: Final = 1.0
PROOF_AGE: Final = 60.0
"""Seconds for which a proof is good; also how far the clocks of two nodes may differ."""
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class Peers:
    """`port` is the internal port of every gateway. `wall_clock` gives seconds since the epoch."""

    def __init__(
        self, upstream: Upstream, signer: Signer, port: int, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._upstream = upstream
        self._signer = signer
        self._port = port
        self._wall_clock = wall_clock
        self._endpoints: dict[str, Endpoint] = {}
        """By the gateway's name."""
        self._notifying: set[asyncio.Task[None]] = set()

    async def connect(self, peer: Peer) -> Connection | None:
        """None where the gateway takes no connection."""
        endpoint = self._endpoint(peer)
        if endpoint is None:
            return None
        connection = endpoint.take()
        if connection is not None:
            return connection
        try:
            return await endpoint.connect(CONNECT_TIMEOUT)
        except OSError as error:
            logger.info(
                "another gateway takes no connection", extra={"gateway": peer.name, "error": str(error) or repr(error)}
            )
            return None

    def head(self, head: bytes, function: FunctionState, request_id: str) -> bytes:
        """The head of an invocation, as it is passed on."""
        first, rest = head.split(b"\r\n", 1)
        return b"%b\r\n%b%b" % (first, self._lines(function.key, request_id), rest)

    def is_valid(self, proof: str, function_key: str, request_id: str) -> bool:
        """Whether a gateway of this installation sent this, lately."""
        seconds, _, hexadecimal = proof.partition(".")
        if not _SECONDS.fullmatch(seconds) or abs(self._wall_clock() - int(seconds)) > PROOF_AGE:
            return False
        return self._signer.is_proof(f"{seconds} {request_id} {function_key}".encode(), hexadecimal)

    def notify_backlog(self, peer: Peer, function: FunctionState) -> None:
        """Notify, without waiting for an answer, that the function has events in the queue. The message may get lost:
        it only saves time."""
        task = asyncio.get_running_loop().create_task(self._notify(peer, function), name=f"notify {peer.name}")
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

    async def close(self) -> None:
        for task in self._notifying:
            task.cancel()
        await asyncio.gather(*self._notifying, return_exceptions=True)

    # -- inside

    def _endpoint(self, peer: Peer) -> Endpoint | None:
        known = self._endpoints.get(peer.name)
        if known is not None and known.host == peer.host:
            return known
        if known is not None:
            known.retire()
            del self._endpoints[peer.name]
        if peer.host is None or self._port <= 0:
            return None
        self._endpoints[peer.name] = self._upstream.endpoint(peer.host, self._port, f"gateway {peer.name}")
        return self._endpoints[peer.name]

    def _lines(self, function_key: str, request_id: str) -> bytes:
        seconds = int(self._wall_clock())
        proof = self._signer.prove(f"{seconds} {request_id} {function_key}".encode())
        return f"{wire.PEER_PROOF}: {seconds}.{proof}\r\n{wire.FUNCTION}: {function_key}\r\n".encode()

    async def _notify(self, peer: Peer, function: FunctionState) -> None:
        connection = await self.connect(peer)
        if connection is None:
            return
        try:
            connection.begin(time.monotonic() + NOTIFY_TIMEOUT, subject=function.key)
            lines = self._lines(function.key, "")
            connection.write(
                b"POST %b HTTP/1.1\r\nHost: gateway\r\n%bContent-Length: 0\r\n\r\n"
                % (wire.BACKLOG_PATH.encode(), lines)
            )
            await connection.head()
            while await connection.chunk() is not None:
                pass
        except KappaError as error:
            logger.debug("another gateway was not notified: %s", error.message)
        finally:
            connection.finish()
