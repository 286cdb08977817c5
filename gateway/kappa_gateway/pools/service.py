"""Pools as the gateway uses them: claims pods for requests that would wait, and says what became of each claim."""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from kappa_core import names, pool, wire
from kappa_core.demand import Claim as ToldClaim
from kappa_core.metrics import ColdStartReason
from kappa_gateway.backend import Pod, PoolPod
from kappa_gateway.pools.claim import Claim, Stage
from kappa_gateway.pools.claims import decide
from kappa_gateway.pools.code import CodeCache
from kappa_gateway.pools.first_request import until_taken
from kappa_gateway.pools.request import config_of, specialize_request
from kappa_gateway.pools.sharing import Sharing
from kappa_gateway.pools.signing import signer
from kappa_gateway.pools.vacancies import Vacancies, Vacancy
from kappa_gateway.state import FunctionState, PodState, PodStatus

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

START_TIMEOUT: Final = 15.0
"""Seconds on top of an invocation's in which a pool pod has the function's process ready (the agent's own limit is 10)."""
FETCH_TIMEOUT: Final = 125.0
"""The same where it fetches an archive by itself."""
_TELL_AFTER: Final = 0.05
"""Seconds after which the operator is told of a claim whose answer is not here yet. What it does then costs processor
time that the cold start had better have."""
_ASK_AFTER: Final = 0.02
"""Seconds after which a pod that can run several invocations is asked whether it is the function's, though its first
answer is not here yet."""
_RELABEL_TIMEOUT: Final = 10.0
"""Seconds in which a claimed pod that has left its pool must be seen as the function's."""
_SHUN: Final = 60.0
"""Seconds for which a pod that refused for another reason than being taken is left alone."""


class Pools:
    """Does nothing until the backend tells of pool pods, and nothing at all without a key."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self.sign = signer(gateway.settings)
        self.vacancies = Vacancies(gateway.upstream, gateway.settings.name, self._freed)
        self.code = CodeCache(gateway.settings)
        self.pool_pods: dict[tuple[str, str], PoolPod] = {}
        """By namespace and name, as the backend tells of them."""
        self._shunned: dict[str, float] = {}
        """Pod uid → until when (monotonic) it is not dialled."""
        self._claims: dict[tuple[str, str], PodState] = {}
        """Those whose pod the platform does not show as the function's yet."""
        self.sharing = Sharing(self, gateway)
        self._claiming = False
        self._looks: dict[FunctionState, float] = {}
        self._asking: set[asyncio.Task[None]] = set()

    # -- what the backend tells

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        given = {(one.namespace, one.name): one for one in pods}
        for key in self.pool_pods.keys() - given.keys():
            self.remove_pool_pod(*key)
        for one in given.values():
            self.put_pool_pod(one)

    def put_pool_pod(self, given: PoolPod) -> None:
        key = (given.namespace, given.name)
        self.pool_pods[key] = given
        if given.leaving:
            self.vacancies.remove(*key)
            return
        if self.sign is None or key in self._claims or self.sharing.reserves(*key):
            return
        if self._shunned.get(given.uid, 0.0) < time.monotonic():
            self.sign.prepare()
            self.vacancies.add(given)

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        key = (namespace, name)
        known = self.pool_pods.pop(key, None)
        if known is not None:
            self._shunned.pop(known.uid, None)
        self.vacancies.remove(namespace, name)
        if key in self._claims:
            # relabelled, and the other watch will say so, or gone
            self._gateway.loop.call_later(_RELABEL_TIMEOUT, self._not_relabelled, self._claims[key])

    def function_changed(self, function: FunctionState) -> None:
        """Whether its requests may claim pods, by what the operator says of this very generation of it."""
        manifest = function.function
        function.claimable = (
            self.sign is not None
            and manifest is not None
            and manifest.status.cold_start is not None
            and manifest.status.cold_start.path == "Pool"
            and manifest.status.observed_generation == manifest.metadata.generation
            and function.failure is None
        )
        function.cold_reason = ColdStartReason.NOT_ELIGIBLE
        if function.claimable and manifest is not None and manifest.spec.code.archive is not None:
            self.code.prefetch(manifest.spec.code.archive)

    # -- claiming

    def claim(self, function: FunctionState) -> None:
        """The function has requests waiting: claim what they need. `Dispatcher.claim`."""
        if self._claiming or function.function is None:
            return
        runtime = function.function.spec.runtime or ""
        if not self.sharing.ready or not self.vacancies.known(function.namespace, runtime):
            function.cold_reason = ColdStartReason.NO_POOL
            return
        decision = decide(self.sharing.situation(function, runtime))
        function.cold_reason = decision.reason
        self._claiming = True
        try:
            for _ in range(decision.claims):
                self._claim_one(function, runtime)
        finally:
            self._claiming = False
        if decision.borrow and function.waiters:
            self.sharing.borrow(function, runtime, decision.borrow)
        if decision.look_again is not None and function.waiters:
            self._look_again(function, decision.look_again)

    def _claim_one(self, function: FunctionState, runtime: str) -> None:
        vacancy = self.vacancies.take(function.namespace, runtime)
        if vacancy is not None and function.function is not None:
            self._gateway.dispatcher.set_status(self.take(function, vacancy), PodStatus.READY)

    def take(self, function: FunctionState, vacancy: Vacancy) -> PodState:
        """The vacancy's pod becomes one of the function's; it serves once the dispatcher is told that it is ready."""
        assert function.function is not None
        taken = vacancy.pod
        pod = Pod(
            taken.namespace, taken.name, function.name, taken.host, taken.port, 1, "lambda", created_at=taken.created_at
        )
        claim = Claim(taken, pool.spec_hash(function.function), vacancy.pool)
        state = self._gateway.registry.claim(pod, claim)
        vacancy.pool.pod = state
        state.pool = vacancy.pool
        self._gateway.upstream.pools.add(vacancy.pool)
        self._claims[taken.namespace, taken.name] = state
        return state

    def _freed(self, namespace: str, runtime: str) -> None:
        """A pod became free: the function whose requests have waited longest may have use for it."""
        for function in self._gateway.dispatcher.waiting():
            if (
                function.claimable
                and function.namespace == namespace
                and function.function is not None
                and function.function.spec.runtime == runtime
            ):
                self.claim(function)

    def _look_again(self, function: FunctionState, after: float) -> None:
        now = self._gateway.loop.time()
        if self._looks.get(function, 0.0) > now:
            return
        self._looks[function] = now + after
        self._gateway.loop.call_later(after, self.look, function)

    def look(self, function: FunctionState) -> None:
        self._looks.pop(function, None)
        if function.claimable and function.waiters:
            self.claim(function)

    # -- a claim's way

    def request(self, state: PodState, request_id: str, head: bytes, event: bytes) -> bytes:
        """The first request to a claimed pod, instead of `head` and `event`. Raises `ValueError` if it is too large."""
        claim, function = state.claim, state.function.function
        assert claim is not None
        assert self.sign is not None
        if function is None:
            raise ValueError("the Function is gone")
        claim.spec_hash = pool.spec_hash(function)
        config = config_of(function, region=self._settings.region, account=self._settings.account)
        code = b""
        if function.spec.code.archive is not None:
            code, config = self.code.for_pod(function.spec.code.archive, config)
        data = specialize_request(
            head,
            event,
            function=function,
            config=config,
            pod_uid=claim.pod.uid,
            request_id=request_id,
            code=code,
            now=time.time(),
            sign=self.sign,
        )
        claim.stage = Stage.SENT
        self._gateway.loop.call_later(_TELL_AFTER, self._tell, state)
        if function.spec.concurrency > 1:
            self._gateway.loop.call_later(_ASK_AFTER, self._ask, state)
        return data

    def start_timeout(self, state: PodState) -> float:
        """Seconds that the first request to a claimed pod may take on top of its function's timeout."""
        function = state.function.function
        return FETCH_TIMEOUT if function is not None and function.spec.code.archive is not None else START_TIMEOUT

    def accepted(self, state: PodState) -> None:
        """The pod's answer is the event's: it is an ordinary pod of the function from now on."""
        claim = state.claim
        assert claim is not None
        claim.stage = Stage.DONE
        self._open(state)
        # in the loop's next turn: the answer leaves first
        self._gateway.loop.call_soon(self._tell, state)

    def refused(self, state: PodState, reason: str) -> None:
        """The pod did not take the function, and ran nothing: it never was the function's."""
        claim = state.claim
        assert claim is not None
        if reason not in (wire.REFUSED_TAKEN, wire.REFUSED_DRAINING):
            logger.warning(
                "a pool pod refused a function (%s): the gateway's private key and the pools' public key must be one pair, "
                "the clocks of the nodes right, and gateway and pools of one version",
                reason,
                extra={"function": state.function.key, "pod": claim.pod.name},
            )
            self._shunned[claim.pod.uid] = time.monotonic() + _SHUN
            self._gateway.loop.call_later(_SHUN + 0.1, self.back_to_pool, claim.pod.namespace, claim.pod.name)
        else:
            self._shunned[claim.pod.uid] = float("inf")
        self._give_up(state)

    def unreachable(self, state: PodState) -> None:
        """The pod took no connection."""
        claim = state.claim
        assert claim is not None
        self._give_up(state)
        self.back_to_pool(claim.pod.namespace, claim.pod.name)

    def never_arrived(self, state: PodState) -> None:
        """As `seen_in_pool`, where no request of ours holds the pod: whoever waits for it gets another one."""
        self.seen_in_pool(state)
        self._gateway.dispatcher.changed(state.function)

    def uncertain(self, state: PodState) -> None:
        """The first request to a claimed pod got no answer: ask the pod whether it took the function."""
        if state.status is not PodStatus.GONE:
            self._gateway.dispatcher.set_status(state, PodStatus.STARTING)
            self._gateway.dialer.dial(state)

    def seen_in_pool(self, state: PodState) -> None:
        """A function's pod says that it is nobody's: what was sent never reached it, or its container was started again."""
        claim = state.claim
        if claim is None or claim.confirmed:
            logger.warning(
                "a pod lost its function, as its container was started again: it is not used any more",
                extra={"function": state.function.key, "pod": state.pod.name},
            )
            self._gateway.dispatcher.set_status(state, PodStatus.DRAINING)
            self._gateway.upstream.drop(state)
        else:
            self._give_up(state)
            self.back_to_pool(claim.pod.namespace, claim.pod.name)

    def confirmed(self, state: PodState) -> None:
        """The platform shows a claimed pod as the function's."""
        if state.claim is not None:
            state.claim.confirmed = True
        self._claims.pop((state.pod.namespace, state.pod.name), None)

    def is_claimed(self, namespace: str, name: str) -> bool:
        """Whether a pod is a function's by a claim that the platform does not show yet."""
        return (namespace, name) in self._claims

    def told(self) -> tuple[ToldClaim, ...]:
        """What a full demand report says."""
        return tuple(
            state.claim.as_told(state.function.name)
            for state in self._claims.values()
            if state.claim is not None and state.claim.stage is not Stage.CLAIMED
        )

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self.sharing.close()
        await self.vacancies.close()
        await self.code.close()

    # -- inside

    def _tell(self, state: PodState) -> None:
        claim = state.claim
        if claim is None or claim.told or claim.confirmed or state.status is PodStatus.GONE:
            return
        claim.told = True
        self._gateway.demand.claimed(state.function, claim.as_told(state.function.name))

    def _ask(self, state: PodState) -> None:
        """Its first invocation takes a while: the others need not wait for its end."""
        task = self._gateway.loop.create_task(self._until_taken(state), name=f"ask {state.pod.name} whose it is")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _until_taken(self, state: PodState) -> None:
        if await until_taken(state):
            self._open(state)

    def _open(self, state: PodState) -> None:
        """All slots of the pod may be used; until it has taken the function, its first request alone is for it."""
        function = state.function.function
        if function is not None and state.capacity != function.spec.concurrency:
            self._gateway.dispatcher.set_capacity(state, function.spec.concurrency)

    def _give_up(self, state: PodState) -> None:
        self._claims.pop((state.pod.namespace, state.pod.name), None)
        self._gateway.registry.give_up_claim(state)

    def back_to_pool(self, namespace: str, name: str) -> None:
        known = self.pool_pods.get((namespace, name))
        if known is not None:
            self.put_pool_pod(known)

    def _not_relabelled(self, state: PodState) -> None:
        key = (state.pod.namespace, state.pod.name)
        if self._claims.get(key) is state and key not in self.pool_pods:
            logger.info(
                "a claimed pool pod is gone",
                extra={"function": names.function_key(key[0], state.pod.function), "pod": key[1]},
            )
            del self._claims[key]
            self._gateway.registry.remove_pod(*key)
