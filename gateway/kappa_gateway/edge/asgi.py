"""ASGI's types, and what this gateway adds to a scope."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
"""ASGI's three; its messages are plain dicts, whose shape its specification gives."""
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CLIENT: Final = "kappa.client"
"""In the scope: the `http_server.ClientProtocol` that the request came over."""
REQUEST_ID: Final = "kappa.request_id"
"""In the scope: the request id that an idempotency key gives the request, in place of its original one."""
