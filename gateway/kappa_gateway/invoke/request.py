"""What is sent to a pod."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kappa_gateway.pods.state import FunctionState
from kappa_gateway.transport.connection import Connection


@dataclass(frozen=True, slots=True)
class Request:
    head: Callable[[FunctionState], bytes]
    """The request's head, its Content-Length last."""
    body: bytes
    idempotent: bool = False
    is_head: bool = False
    """Its method is HEAD."""
    more: Callable[[Connection], Awaitable[None]] | None = None
    """Sends the rest of a body that is not all here yet. Such a request goes to one pod only."""
