"""A gateway's pod → `platform.Peer`. Its pod's name is its name among the gateways that claim pool pods."""

from collections.abc import Mapping
from typing import Any

from kappa_gateway.cluster.reduction import has_ended
from kappa_gateway.pods.platform import Peer


def read(raw: Mapping[str, Any], _seen_at: float | None, _previous: Peer | None, /) -> Peer | None:
    """A table's reader. A gateway that is not ready or is stopping is not a peer: it claims nothing, and passes
    requests on to those that do."""
    status = raw.get("status") or {}
    conditions = status.get("conditions") or ()
    is_ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    if has_ended(raw) or raw["metadata"].get("deletionTimestamp") or not is_ready:
        return None
    return Peer(raw["metadata"]["name"], status.get("podIP") or None)
