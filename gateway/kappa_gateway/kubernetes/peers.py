"""The other gateways: their pods' names, which are their names in what they share of `maxReplicas`, and addresses."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from kappa_gateway.backend import Peer

_GONE: Final = frozenset({"Succeeded", "Failed"})


class Peers:
    """A table's sink that tells `replace_peers` the whole set each time."""

    def __init__(self, replace_peers: Callable[[Iterable[Peer]], None]) -> None:
        self._tell = replace_peers
        self._peers: dict[str, Peer] = {}

    @staticmethod
    def read(raw: Mapping[str, Any], _seen_at: float | None, _previous: Peer | None, /) -> Peer | None:
        """A gateway that stops may still claim, so it counts until it has ended."""
        status = raw.get("status") or {}
        return None if status.get("phase") in _GONE else Peer(raw["metadata"]["name"], status.get("podIP") or None)

    def replace(self, peers: Iterable[Peer]) -> None:
        self._peers = {peer.name: peer for peer in peers}
        self._tell(self._peers.values())

    def put(self, peer: Peer) -> None:
        self._peers[peer.name] = peer
        self._tell(self._peers.values())

    def remove(self, _namespace: str, name: str) -> None:
        self._peers.pop(name, None)
        self._tell(self._peers.values())
