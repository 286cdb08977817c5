"""The event that a lambda function gets of a request to its URL, whether its answer is waited for or not."""

import json
import time

from kappa_core import function_url
from kappa_core.function_url import HttpRequest
from kappa_gateway.edge import forwarding
from kappa_gateway.edge.asgi import Headers, Scope
from kappa_gateway.edge.target import Target
from kappa_gateway.settings import Settings


def url_event(settings: Settings, scope: Scope, target: Target, body: bytes, request_id: str) -> bytes:
    """Lambda's payload format 2.0, as JSON."""
    headers: Headers = scope["headers"]
    request = HttpRequest(
        method=scope["method"],
        path=target.path.decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        body=body,
        protocol=f"HTTP/{scope['http_version']}",
        source_ip=forwarding.source_ip(scope, settings.trusted_proxies),
        domain=settings.domain or forwarding.header(headers, b"host").decode("latin-1"),
        request_id=request_id,
        function=target.name,
        time=time.time(),
    )
    return json.dumps(function_url.to_payload(request), separators=(",", ":")).encode()
