"""Which gateways there are: the gateway pods of the operator's own namespace, listed and watched."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from kappa_core import names
from kappa_kube import paths
from kappa_kube.reflector import Reflector, Resource, Source, Timing
from kappa_kube.table import Table
from kappa_operator import selectors

_HINTS: Final = {
    403: "the operator's ServiceAccount may not: its Role in its own namespace needs get, list and watch on pods"
}
_TIMING: Final = Timing(silence=75.0, backoff_most=2.0)
"""Sooner than the default: the demand of a gateway that is not known yet scales nothing."""


async def follow(source: Source, namespace: str, on_change: Callable[[Mapping[str, str]], None]) -> None:
    """Call `on_change` with pod name → base URL of all gateways at each change, until cancelled."""
    table = Table.of_few([namespace], _url, lambda urls: on_change({name: url for (_, name), url in urls.items()}))
    resource = Resource(paths.collection(paths.PODS, namespace), "the gateway pods", selectors.GATEWAYS, hints=_HINTS)
    await Reflector(source, resource, namespace, table, timing=_TIMING).run()


def _url(raw: Mapping[str, Any], _seen_at: float | None, _previous: str | None, /) -> str | None:
    """A pod that drains still has requests in flight: its demand counts until it has ended."""
    status = raw.get("status") or {}
    address = status.get("podIP")
    if not address or status.get("phase") in ("Succeeded", "Failed"):
        return None
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{names.GATEWAY_INTERNAL_PORT}"
