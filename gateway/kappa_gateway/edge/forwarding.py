"""What a proxy does to headers: which ones belong to one connection only, and whose address it passes on."""

from typing import Final

from kappa_gateway.edge.asgi import Headers, Scope

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 §7.6.1, and the older ones that clients still send."""


def end_to_end(headers: Headers) -> Headers:
    """The headers that are passed on: without those of the connection, and without those that `Connection` names."""
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in headers if name not in HOP_BY_HOP and name not in named]


def peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def source_ip(scope: Scope, trusted_proxies: int) -> str:
    """The client's address: the peer's, or with N trusted proxies before us the N-th last entry of X-Forwarded-For."""
    if trusted_proxies:
        entries: list[str] = [
            entry.strip().decode("latin-1")
            for name, value in scope["headers"]
            if name == b"x-forwarded-for"
            for entry in value.split(b",")
            if entry.strip()
        ]
        if entries:
            return entries[-min(trusted_proxies, len(entries))]
    return peer(scope)


def header(headers: Headers, wanted: bytes) -> bytes:
    """The first value of a header; empty if the header is missing."""
    for name, value in headers:
        if name == wanted:
            return value
    return b""


def forwarded(scope: Scope, prefix: bytes, *, trust: bool) -> bytes:
    """The X-Forwarded header lines for a request to a pod. A client's own X-Forwarded-Proto and -Host count only with
    `trust`."""
    headers: Headers = scope["headers"]
    claimed = [value for name, value in headers if name == b"x-forwarded-for"]
    chain = b", ".join([*claimed, peer(scope).encode()])
    scheme = b"https" if scope.get("scheme") in ("https", "wss") else b"http"
    proto = (header(headers, b"x-forwarded-proto") if trust else b"") or scheme
    host = (header(headers, b"x-forwarded-host") if trust else b"") or header(headers, b"host")
    return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\nx-forwarded-prefix: %b\r\n" % (
        chain,
        proto,
        host,
        prefix,
    )


FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix"})
