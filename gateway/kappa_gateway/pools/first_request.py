"""The first request to a claimed pod: it makes the pod the function's and runs the event there."""

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from kappa_core.errors import KappaError
from kappa_gateway.dialer import READY_WAIT, ask_ready, read_ready
from kappa_gateway.pools.claim import CONNECT_TIMEOUT, Stage
from kappa_gateway.state import PodStatus

if TYPE_CHECKING:
    from kappa_gateway.connection import Connection
    from kappa_gateway.exchange import Exchange
    from kappa_gateway.state import PodState

logger = logging.getLogger(__name__)

_PAUSE: Final = 0.02


async def specialize(
    exchange: "Exchange", pod: "PodState", connection: "Connection", head: bytes, event: bytes
) -> bool:
    """Whether the pod took the function; if not, nothing was run, and it is no pod of the function any more.

    `head` and `event` are those of an ordinary invocation. Raises as `Exchange.request`.
    """
    gateway, function = exchange.gateway, exchange.function
    pools = gateway.pools
    try:
        data = pools.request(pod, exchange.request_id, head, event)
    except ValueError as error:
        logger.warning("a function is not for a pool: %s", error, extra={"function": function.key})
        function.claimable = False
        gateway.upstream.pool(pod).put(connection)
        exchange.connection = None
        pools.unreachable(pod)
        return False
    exchange.sent = time.monotonic()
    connection.begin(exchange.sent + function.timeout + pools.start_timeout(pod) + gateway.settings.answer_margin)
    connection.write(data)
    try:
        await connection.head()
    except BaseException:
        pools.uncertain(pod)
        raise
    if connection.status == 200:
        exchange.look_at_head(connection)
        pools.accepted(pod)
        return True
    reason = f"HTTP {connection.status}"
    try:
        reason = await exchange.read_refusal(connection) or reason
    finally:
        pools.refused(pod, reason)
    return False


async def until_taken(pod: "PodState") -> bool:
    """Ask the pod whose it is, beside its first request: True once it is the function's and ready, False when that request
    has ended."""
    claim = pod.claim
    while claim is not None and claim.stage is Stage.SENT and pod.status is PodStatus.READY:
        with contextlib.suppress(OSError, KappaError):
            connection = await claim.pool.connect(CONNECT_TIMEOUT)
            status, body = await ask_ready(connection, pod.pod.host or "", READY_WAIT, READY_WAIT + 5)
            if status == 200 and read_ready(body)[1] == pod.function.key:
                claim.pool.put(connection)
                return True
            connection.close()
        await asyncio.sleep(_PAUSE)
    return False
