"""A pool pod's agent before it has a function: it answers probes; the first good `specialize` request takes it."""

from __future__ import annotations

import time

from kappa_core import specialize as request_format
from kappa_core import wire
from kappa_core.specialize import Received
from kappa_runtime.agent import gateway_wire
from kappa_runtime.agent.gateway_http import AgentService, GatewayConnection
from kappa_runtime.agent.gateway_wire import BadRequest
from kappa_runtime.agent.readiness import DrainWaiters, Readiness
from kappa_runtime.io.http_protocol import Request

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable


class PoolService:
    """As `gateway_http.Service`, until it hands its connections to the Function's."""

    draining = False

    def __init__(
        self,
        readiness: Readiness,
        drain_waiters: DrainWaiters,
        read: Callable[[bytes], Received],
        become: Callable[[Received, float], AgentService],
    ) -> None:
        """`read`: a specialize request's body; raises `Malformed` and `Refused`. `become`: makes the Function's service
        of it, given when the request was in by `time.perf_counter`."""
        self.connections: set[GatewayConnection] = set()
        self._readiness = readiness
        self._drain_waiters = drain_waiters
        self._read = read
        self._become = become

    def opened(self, connection: GatewayConnection) -> None:
        self.connections.add(connection)

    def closed(self, connection: GatewayConnection) -> None:
        self.connections.discard(connection)
        self._readiness.forget(connection)

    def handle(self, connection: GatewayConnection, request: Request) -> None:
        path = request.path
        if path == gateway_wire.SPECIALIZE:
            self._specialize(connection, request)
        elif path == gateway_wire.READY:
            connection.answer_ready(request, self._readiness)
        elif path == gateway_wire.HEALTH:
            connection.respond_json(200, b'{"status":"ok"}')
        elif path == gateway_wire.DRAIN:
            self._drain_waiters.add(connection)
        elif path == gateway_wire.POOL_INVOKE:
            message = "this pod is in a pool and has no function yet; nothing was run"
            connection.refuse(503, wire.REFUSED_POOL, message)
        else:
            connection.fail(
                404,
                "NotFound",
                f"the agent of a pool pod has no {path.decode(errors='replace')}: it serves {wire.SPECIALIZE_PATH},"
                f" {wire.READY_PATH} and {wire.HEALTH_PATH}",
            )

    def _specialize(self, connection: GatewayConnection, request: Request) -> None:
        began = time.perf_counter()
        if request.method != b"POST":
            connection.fail(405, "MethodNotAllowed", f"{wire.SPECIALIZE_PATH}: POST")
            return
        if request.too_large:
            connection.fail(413, "RequestTooLarge", f"a specialize request is at most {connection.max_body} bytes")
            return
        try:
            received = self._read(request.body)
            gateway_wire.check_invocation(request, received.specialization.request_id, connection)
            request.body = received.payload
        except (request_format.Malformed, BadRequest) as error:
            connection.fail(400, "InvalidRequest", str(error))
        except request_format.Refused as refused:
            connection.refuse(403, refused.reason, f"{refused}; nothing was run")
        else:
            self._become(received, began).invoke(connection, request)
