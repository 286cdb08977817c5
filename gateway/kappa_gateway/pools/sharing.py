"""What this gateway may claim within `maxReplicas`: what it knows of the others, its share, and places borrowed and lent."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kappa_core import pool
from kappa_gateway.backend import Peer
from kappa_gateway.pools.borrower import Borrower
from kappa_gateway.pools.claim import CONNECT_TIMEOUT, Stage
from kappa_gateway.pools.claims import Situation, places
from kappa_gateway.pools.loans import LOAN_SECONDS, USE_SECONDS, Lent, LoanRequest
from kappa_gateway.state import FunctionState, PodState, PodStatus

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway
    from kappa_gateway.pools.service import Pools
    from kappa_gateway.pools.vacancies import Vacancy


class Sharing:
    def __init__(self, pools: "Pools", gateway: "Gateway") -> None:
        self._pools = pools
        self._gateway = gateway
        self._name = gateway.settings.name
        alone = {self._name: Peer(self._name, None)}
        self._peers: dict[str, Peer] | None = None if gateway.settings.pool_peers_namespace else alone
        """By name, this gateway too. None: not known yet, and so nothing is claimed."""
        self._lent = Lent(gateway.loop.time, self._pool_state)
        self._borrower: Borrower | None = None
        if pools.sign is not None:
            self._borrower = Borrower(
                self._name,
                gateway.settings.internal_port,
                pools.sign,
                pools.vacancies,
                claim=self._claim_borrowed,
                give_back=self._give_back,
                look=pools.look,
            )

    @property
    def ready(self) -> bool:
        """Whether it is known with whom to share."""
        return self._peers is not None

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        self._peers = {self._name: Peer(self._name, None), **{peer.name: peer for peer in peers}}

    def situation(self, function: FunctionState, runtime: str) -> Situation:
        assert function.function is not None
        peers = self._peers or {self._name: Peer(self._name, None)}
        pods = [
            one
            for one in function.pods.values()
            if one.status not in (PodStatus.DRAINING, PodStatus.GONE) and one.pod.host is not None
        ]
        lent, unseen = self._lent.count(function)
        asked = self._borrower is not None and self._borrower.asks(function)
        return Situation(
            waiting=len(function.waiters),
            in_flight=function.in_flight,
            max_replicas=function.max_replicas,
            concurrency=function.function.spec.concurrency,
            mean_duration=function.mean_duration,
            running=self._gateway.loop.time() - function.busy_since if function.in_flight else 0.0,
            cold_start=function.cold_start,
            pods=len(pods) + unseen + asked,
            own=sum(one.claim is not None and not one.claim.borrowed for one in pods) + lent,
            free=self._pools.vacancies.free(function.namespace, runtime),
            rank=pool.rank(function.key, self._name, peers),
            gateways=len(peers),
        )

    # -- the lender's side

    def lend(self, request: LoanRequest) -> bool:
        """Whether another gateway may claim that pod on this one's account."""
        function = self._gateway.registry.get(request.namespace, request.function)
        key = (request.namespace, request.pod)
        if function is None or function.function is None or not function.claimable or not self.ready:
            return False
        if self._lent.has(request):
            return True
        if self._pools.is_claimed(*key):
            return False
        if places(self.situation(function, function.function.spec.runtime or "")) < 1:
            return False
        self._lent.add(request)
        self._pools.vacancies.remove(*key)
        self._gateway.loop.call_later(LOAN_SECONDS + 0.1, self._pools.back_to_pool, *key)
        return True

    def reserves(self, namespace: str, pod: str) -> bool:
        """Whether a pool pod is another gateway's to take."""
        return self._lent.reserves(namespace, pod)

    def pod_gone(self, namespace: str, pod: str) -> None:
        """A pod of a function is gone: its place can be lent again."""
        self._lent.drop(namespace, pod)

    # -- the borrower's side

    def borrow(self, function: FunctionState, runtime: str, count: int) -> None:
        """Ask other gateways for `count` places."""
        if self._borrower is None or self._peers is None:
            return
        others = [peer for peer in self._peers.values() if peer.name != self._name and peer.host]
        # whose share is largest comes first
        others.sort(key=lambda peer: pool.rank(function.key, peer.name, self._peers or ()))
        self._borrower.borrow(function, runtime, count, others)

    async def close(self) -> None:
        if self._borrower is not None:
            await self._borrower.close()

    # -- inside

    def _claim_borrowed(self, function: FunctionState, vacancy: "Vacancy") -> None:
        state = self._pools.take(function, vacancy)
        assert state.claim is not None
        state.claim.borrowed = True
        self._gateway.loop.call_later(USE_SECONDS, self._used, state)
        self._gateway.dispatcher.set_status(state, PodStatus.READY)

    def _used(self, state: PodState) -> None:
        """A place is lent for a request that waits, not for one to come."""
        if state.claim is None or state.claim.stage is not Stage.CLAIMED or state.status is PodStatus.GONE:
            return
        if state.outstanding:
            # its connection is being made
            self._gateway.loop.call_later(CONNECT_TIMEOUT, self._used, state)
        else:
            self._pools.unreachable(state)

    def _give_back(self, vacancy: "Vacancy") -> None:
        vacancy.pool.close()
        self._pools.back_to_pool(vacancy.pod.namespace, vacancy.pod.name)

    def _pool_state(self, namespace: str, name: str) -> tuple[bool, bool]:
        known = self._pools.pool_pods.get((namespace, name))
        if known is None:
            return False, False
        return True, self._pools.vacancies.is_free(namespace, known.runtime, name)
