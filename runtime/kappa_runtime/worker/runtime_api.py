"""The Lambda Runtime API, version 2018-06-01, for one runtime process.

`GET …/invocation/next` is held until there is an invocation and never answered with anything but 200: awslambdaric
ends on any other status. Source: AWS Lambda's developer guide, "Using the Lambda runtime API".
"""

from __future__ import annotations

from kappa_core import wire
from kappa_runtime.io.http_protocol import HttpProtocol, Request
from kappa_runtime.io.loop import EventLoop
from kappa_runtime.io.transport import Server
from kappa_runtime.worker import errors
from kappa_runtime.worker.invocation import Invocation

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final, Protocol
else:
    Protocol = object


class Runtime(Protocol):
    """Whose Runtime API it is: `process.RuntimeProcess`, or `rehearsal.Rehearsal` before it is a function's."""

    def on_next(self, connection: RuntimeApiProtocol) -> None: ...
    def on_init_error(self, body: bytes, error_type: str) -> bool: ...
    def is_running(self, request_id: str) -> bool: ...
    def on_response(self, body: bytes, content_type: bytes) -> None: ...
    def on_error(self, body: bytes, error_type: str) -> None: ...
    def on_response_too_large(self, size: int) -> None: ...
    def on_connection_lost(self, connection: RuntimeApiProtocol) -> None: ...


_BASE: Final = f"/{wire.RUNTIME_API_VERSION}/runtime/".encode()
_NEXT: Final = _BASE + b"invocation/next"
_INVOCATION: Final = _BASE + b"invocation/"
_INIT_ERROR: Final = _BASE + b"init/error"
_ACCEPTED: Final = b'{"status":"OK"}\n'
_HEAD: Final = (
    b"Content-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: %b\r\nLambda-Runtime-Deadline-Ms: %d\r\n"
    b"Lambda-Runtime-Invoked-Function-Arn: %b\r\nLambda-Runtime-Trace-Id: %b\r\n"
)

_ERROR_TYPE: Final = b"lambda-runtime-function-error-type"
_ERROR_BODY: Final = b"lambda-runtime-function-error-body"
"""Base64; with the error type the trailer of a streamed answer that failed on its way."""


class RuntimeApi:
    """The Runtime API of one runtime process: its port, its connections, and whom their requests are for."""

    def __init__(self, loop: EventLoop, fd: int, port: int) -> None:
        """It owns the listening socket `fd`."""
        self.port = port
        self.connections: set[RuntimeApiProtocol] = set()
        self._loop = loop
        self._fd = fd
        self._server: Server | None = None

    def serve(self, runtime: Runtime, max_body: int) -> None:
        """Requests are for this one from now on, also those on open connections. `max_body`: bytes of an answer."""

        def accept() -> RuntimeApiProtocol:
            return RuntimeApiProtocol(runtime, self.connections, max_body)

        if self._server is None:
            self._server = Server(self._loop, self._fd, accept)
        else:
            self._server.hand_to(accept)
        for connection in self.connections:
            connection.hand_to(runtime, max_body)

    def hang_up(self) -> None:
        """End its connections."""
        for connection in list(self.connections):
            connection.abort()

    def close(self) -> None:
        """Accept no more connections."""
        if self._server is not None:
            self._server.close()


class RuntimeApiProtocol(HttpProtocol):
    WANTED = frozenset((b"content-type", _ERROR_TYPE, _ERROR_BODY))
    MAX_HEAD = 2 * 1024 * 1024
    """awslambdaric puts up to 1 MiB of trace into a header of its errors."""

    def __init__(self, runtime: Runtime, connections: set[RuntimeApiProtocol], max_body: int) -> None:
        super().__init__(max_body)
        self._process = runtime
        self._connections = connections
        connections.add(self)

    def hand_to(self, runtime: Runtime, max_body: int) -> None:
        """Its requests are for this one from now on."""
        self._process = runtime
        self.max_body = max_body

    def handle(self, request: Request) -> None:
        path = request.path
        if request.method == b"GET":
            if path == _NEXT:
                self._process.on_next(self)
                return
        elif request.method == b"POST":
            if path.startswith(_INVOCATION):
                request_id, _, what = path[len(_INVOCATION) :].decode("ascii", "replace").partition("/")
                if what == "response":
                    self._response(request_id, request)
                    return
                if what == "error":
                    self._error(request_id, request)
                    return
            elif path == _INIT_ERROR:
                accepted = self._process.on_init_error(
                    request.body, request.headers.get(_ERROR_TYPE, b"").decode("ascii", "replace")
                )
                if accepted:
                    self.respond_json(202, _ACCEPTED)
                else:
                    self._fail(403, "InvalidStateTransition", "the runtime process has started already")
                return
        self._fail(404, "NotFound", f"the Runtime API has no {request.method.decode()} {path.decode(errors='replace')}")

    def eof_received(self) -> bool:
        # a runtime process that shuts its side has ended
        return False

    def closed(self) -> None:
        self._connections.discard(self)
        self._process.on_connection_lost(self)

    def error_body(self, status: int, message: str) -> bytes:
        return errors.body("RequestEntityTooLarge" if status == 413 else "InvalidRequest", message)

    def send(self, invocation: Invocation, deadline_ms: int) -> None:
        """Answer the held `next` with an invocation."""
        head = _HEAD % (invocation.request_id.encode(), deadline_ms, invocation.arn, invocation.trace_id)
        if invocation.client_context:
            head += b"Lambda-Runtime-Client-Context: %b\r\n" % invocation.client_context
        if invocation.cognito_identity:
            head += b"Lambda-Runtime-Cognito-Identity: %b\r\n" % invocation.cognito_identity
        self.respond(200, head, invocation.event)

    def _response(self, request_id: str, request: Request) -> None:
        if not self._process.is_running(request_id):
            self._unknown(request_id)
            return
        if request.too_large:
            self._process.on_response_too_large(request.size)
            self._fail(413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({self.max_body} bytes).")
            return
        error_type = request.headers.get(_ERROR_TYPE)
        if error_type is not None:
            # a streamed answer that failed half way: its trailer is the answer
            self._process.on_error(
                _trailer(request.headers.get(_ERROR_BODY, b"")), error_type.decode("ascii", "replace")
            )
        else:
            self._process.on_response(request.body, request.headers.get(b"content-type", b"application/json"))
        self.respond_json(202, _ACCEPTED)

    def _error(self, request_id: str, request: Request) -> None:
        if not self._process.is_running(request_id):
            self._unknown(request_id)
            return
        if request.too_large:
            self._process.on_response_too_large(request.size)
            self._fail(413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({self.max_body} bytes).")
            return
        self._process.on_error(request.body, request.headers.get(_ERROR_TYPE, b"").decode("ascii", "replace"))
        self.respond_json(202, _ACCEPTED)

    def _unknown(self, request_id: str) -> None:
        self._fail(
            400,
            "InvalidRequestID",
            f"no invocation {request_id} is running in this process: it was answered already, or it timed out",
        )

    def _fail(self, status: int, error_type: str, message: str) -> None:
        self.respond_json(status, errors.body(error_type, message))


def _trailer(value: bytes) -> bytes:
    import binascii  # a start has no use for it

    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return value
