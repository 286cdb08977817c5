"""HTTP to the gateway: its connections, and what a Function's agent serves on them. See `kappa_core.wire`."""

from __future__ import annotations

from kappa_core import wire
from kappa_runtime.agent import gateway_wire
from kappa_runtime.agent.agent import Agent
from kappa_runtime.agent.gateway_wire import BadRequest
from kappa_runtime.agent.kept_answers import KeptAnswer, KeptAnswers, budget
from kappa_runtime.agent.readiness import DrainWaiters, Readiness
from kappa_runtime.io.http_protocol import HttpProtocol, Request
from kappa_runtime.worker import errors
from kappa_runtime.worker.invocation import Answer, Invocation

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol
else:
    Protocol = object

SIDECAR_MEMORY_MIB: Final = 256
"""The memory limit of the agent's own container beside an image's."""


class Service(Protocol):
    """What answers a connection's requests: an `AgentService`, or `pool.PoolService` before there is a Function."""

    @property
    def draining(self) -> bool: ...
    def opened(self, connection: GatewayConnection) -> None: ...
    def handle(self, connection: GatewayConnection, request: Request) -> None: ...
    def closed(self, connection: GatewayConnection) -> None: ...


class GatewayConnection(HttpProtocol):
    WANTED = gateway_wire.WANTED

    def __init__(self, service: Service, max_body: int) -> None:
        super().__init__(max_body)
        self._service = service
        service.opened(self)

    def hand_to(self, service: Service, max_body: int) -> None:
        """Its requests are answered by this service from now on."""
        self._service = service
        self.max_body = max_body
        service.opened(self)

    def handle(self, request: Request) -> None:
        self._service.handle(self, request)

    def closed(self) -> None:
        self._service.closed(self)

    def error_body(self, status: int, message: str) -> bytes:
        return errors.body("RequestTooLarge" if status == 413 else "InvalidRequest", message)

    def answer(self, invocation: Invocation, answer: Answer) -> None:
        """As `invocation.Caller`."""
        if self._service.draining:
            self.close_after()
        self.respond(200, gateway_wire.answer_head(invocation, answer), answer.body)

    def fail(self, status: int, error_type: str, message: str) -> None:
        self.respond_json(status, errors.body(error_type, message))

    def refuse(self, status: int, reason: str, message: str) -> None:
        """Answer that nothing was run; `reason` says why, in a header for the gateway."""
        self.respond(status, gateway_wire.REFUSED % reason.encode(), errors.body("Kappa.Refused", message))

    def answer_ready(self, request: Request, readiness: Readiness) -> None:
        try:
            wait = gateway_wire.read_wait(request.query)
        except ValueError:
            self.fail(400, "InvalidRequest", f"{wire.READY_PATH}?wait=SECONDS: a number, such as 0.5")
            return
        readiness.answer(self, wait)


class AgentService:
    """A Function's agent, as the gateway sees it."""

    def __init__(
        self, agent: Agent, drain_waiters: DrainWaiters, changed: Callable[[], None], *, pooled: bool = False
    ) -> None:
        """`changed` is called when a connection or a kept answer has gone. `pooled`: the pod comes from a pool."""
        self.connections: set[HttpProtocol] = set()
        self._agent = agent
        self._readiness = agent.readiness
        self._drain_waiters = drain_waiters
        self._changed = changed
        self._pooled = pooled
        self._kept: KeptAnswers | None = None
        """From the first event on."""
        self._holds: dict[HttpProtocol, KeptAnswer] = {}
        """The event's answer that a connection's last request asked for."""

    @property
    def draining(self) -> bool:
        return self._agent.draining

    def opened(self, connection: GatewayConnection) -> None:
        self.connections.add(connection)

    def closed(self, connection: GatewayConnection) -> None:
        self.connections.discard(connection)
        kept = self._holds.pop(connection, None)
        if kept is not None:
            self._answers.leave(kept, connection)
        self._changed()
        self._readiness.forget(connection)

    def handle(self, connection: GatewayConnection, request: Request) -> None:
        kept = self._holds.pop(connection, None)
        self._route(connection, request)
        if kept is not None and self._holds.get(connection) is not kept:
            # a gateway uses a connection again once it has handled the answer that it got over it before
            kept.holders.discard(connection)
            self._answers.forget(kept)

    def _route(self, connection: GatewayConnection, request: Request) -> None:
        path = request.path
        if (
            self._agent.draining
            and gateway_wire.ATTEMPT not in request.headers
            and not path.startswith(gateway_wire.KEPT)
        ):
            # the others stay open: over them a gateway says which answers it has handled
            request.keep_alive = False
        if path.startswith(gateway_wire.INVOKE_PREFIX) and path.endswith(gateway_wire.INVOKE_SUFFIX):
            if request.method != b"POST":
                connection.fail(405, "MethodNotAllowed", "invocations are POST requests")
            elif request.too_large:
                connection.fail(413, "RequestTooLarge", f"the event is over {connection.max_body} bytes")
            else:
                self.invoke(connection, request)
        elif path == gateway_wire.READY:
            connection.answer_ready(request, self._readiness)
        elif path == gateway_wire.HEALTH:
            connection.respond_json(200, b'{"status":"ok"}')
        elif path == gateway_wire.DRAIN:
            self._drain_waiters.add(connection)
        elif path.startswith(gateway_wire.KEPT):
            self._find_kept(connection, request)
        elif self._pooled and path == gateway_wire.SPECIALIZE:
            message = "this pod is a Function's already; nothing was run"
            connection.refuse(409, wire.REFUSED_TAKEN, message)
        else:
            connection.fail(
                404,
                "NotFound",
                f"the agent has no {path.decode(errors='replace')}: it serves {wire.INVOKE_PATH}, {wire.READY_PATH},"
                f" {wire.HEALTH_PATH} and {wire.KEPT_PATH}",
            )

    # invocations

    def invoke(self, connection: GatewayConnection, request: Request) -> None:
        if gateway_wire.ATTEMPT in request.headers:
            self._invoke_event(connection, request)
            return
        if self._refuses(connection):
            return
        try:
            invocation = gateway_wire.read_invocation(request, connection)
        except BadRequest as error:
            connection.fail(400, "InvalidRequest", str(error))
            return
        self._submit(invocation)

    def _refuses(self, connection: GatewayConnection) -> bool:
        refused = self._agent.refusal()
        if refused is None:
            return False
        if refused == wire.REFUSED_BUSY:
            concurrency = self._agent.config.concurrency
            connection.refuse(429, refused, f"all {concurrency} slots of this pod are taken; nothing was run")
        else:
            connection.refuse(503, refused, "this pod is stopping; nothing was run")
        return True

    def _submit(self, invocation: Invocation) -> None:
        if not invocation.arn:
            invocation.arn = self._agent.arn
        self._agent.submit(invocation)

    # events, whose answers are kept

    @property
    def _answers(self) -> KeptAnswers:
        if self._kept is None:
            config = self._agent.config
            memory_mib = SIDECAR_MEMORY_MIB if config.sidecar else config.memory_mib
            self._kept = KeptAnswers(
                self._agent.loop, budget(memory_mib), changed=self._changed, log=self._agent.output.line
            )
        return self._kept

    def _invoke_event(self, connection: GatewayConnection, request: Request) -> None:
        """An attempt that is known already is not run again: it gets the same answer, and takes no slot."""
        try:
            invocation = gateway_wire.read_invocation(request, connection)
            key = invocation.request_id, gateway_wire.read_attempt(request.headers[gateway_wire.ATTEMPT])
        except BadRequest as error:
            connection.fail(400, "InvalidRequest", str(error))
            return
        kept = self._answers.find(key)
        if kept is not None:
            self._hold(connection, kept)
            return
        if self._refuses(connection):
            return
        kept = self._answers.begin(key)
        self._hold(connection, kept)
        invocation.caller = kept
        self._submit(invocation)

    def _find_kept(self, connection: GatewayConnection, request: Request) -> None:
        """`GET`: the answer, as it was given, once there is one. `DELETE`: it was handled."""
        request_id, _, attempt = request.path.removeprefix(gateway_wire.KEPT).decode("latin-1").rpartition("/")
        answers = self._answers
        kept = answers.find((request_id, int(attempt))) if attempt.isdecimal() and attempt.isascii() else None
        if request.method == b"DELETE":
            forgotten = kept is not None and answers.forget(kept)
            connection.respond_json(200, b'{"forgotten": true}' if forgotten else b'{"forgotten": false}')
        elif request.method != b"GET":
            connection.fail(405, "MethodNotAllowed", f"{wire.KEPT_PATH}REQUEST_ID/ATTEMPT: GET or DELETE")
        elif kept is None:
            connection.fail(
                404,
                "NotKept",
                f"nothing is known of attempt {attempt} of {request_id}: it did not run in this pod, or its answer was"
                f" handled, or is older than {wire.KEPT_SECONDS:.0f} s",
            )
        else:
            if kept.head is None and connection.transport is not None:
                connection.transport.write(gateway_wire.PROCESSING)
            self._hold(connection, kept)

    def _hold(self, connection: GatewayConnection, kept: KeptAnswer) -> None:
        self._holds[connection] = kept
        self._answers.hold(kept, connection)

    # what draining asks (as `drain.Front`)

    def unhandled(self) -> int:
        """Events whose answers no gateway has handled. In local mode none is waited for: its one gateway did not die,
        or this agent would have."""
        return 0 if self._kept is None or self._agent.config.parent_death else len(self._kept)

    def keep_shorter(self) -> None:
        if self._kept is not None:
            self._kept.drain()

    def close(self) -> None:
        """Close the connections once what was written is sent."""
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()
