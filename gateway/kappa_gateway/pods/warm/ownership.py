"""Which gateway claims pool pods for a function: the one that every gateway computes alike (rendezvous hashing).

So one gateway makes all claims of a function, and their number is exact without a shared counter. When gateways come or
go, some functions move to another one, which waits for `HANDOVER` before it claims: by then the previous gateway has
stopped claiming, and the platform shows what it has claimed. Meanwhile the function starts by its Deployment.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kappa_core import pool
from kappa_gateway.pods.platform import Peer

HANDOVER: Final = 1.0
"""Seconds. A claimed pod has its label within 0.3 s on a busy machine, see docs/decisions/0014."""


class Ownership:
    """`name` is this gateway's; `clock` gives seconds, monotonic. With `is_alone` there are no other gateways, whatever
    is reported."""

    def __init__(self, name: str, clock: Callable[[], float], *, is_alone: bool) -> None:
        self._name = name
        self._clock = clock
        self._peers: Mapping[str, Peer] | None = {name: Peer(name, None)} if is_alone else None
        self._before: list[tuple[float, frozenset[str]]] = []
        """Sets of gateways that were in force lately, and until when."""

    @property
    def is_known(self) -> bool:
        """Whether it is known which gateways there are; until then nothing is claimed."""
        return self._peers is not None

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        """All gateways that serve. This gateway is among them from when the platform shows it as ready until it
        stops."""
        given = {peer.name: peer for peer in peers}
        # a gateway that starts takes functions over from those that were there
        before = frozenset(self._peers) if self._peers is not None else frozenset(given) - {self._name}
        if before and before != given.keys():
            now = self._clock()
            self._before = [(until, names) for until, names in self._before if until + HANDOVER > now]
            self._before.append((now, before))
        self._peers = given

    def owner(self, function_key: str) -> Peer | None:
        """The gateway that claims for the function; None while that is unknown or changing."""
        if not self._peers:
            return None
        name = pool.owner(function_key, self._peers)
        now = self._clock()
        for until, names in self._before:
            if until + HANDOVER > now and pool.owner(function_key, names) != name:
                return None
        return self._peers[name]

    def is_own(self, peer: Peer) -> bool:
        return peer.name == self._name
