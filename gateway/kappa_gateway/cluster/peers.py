"""A gateway's pod → `backend.Peer`. Its pod's name is its name in what the gateways share of `maxReplicas`."""

from collections.abc import Mapping
from typing import Any

from kappa_gateway.pods.platform import Peer
from kappa_gateway.cluster.reduction import has_ended


def read(raw: Mapping[str, Any], _seen_at: float | None, _previous: Peer | None, /) -> Peer | None:
    """A table's reader. A gateway that stops may still claim, so it counts until it has ended."""
    host = (raw.get("status") or {}).get("podIP") or None
    return None if has_ended(raw) else Peer(raw["metadata"]["name"], host)
