"""The functions and pods that a backend tells of, in memory: what a request's name means, and what may serve it."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from kappa_core import agent_config, wire
from kappa_core.errors import FunctionFailed
from kappa_core.function import Function
from kappa_core.reasons import BLOCKING, ConditionType
from kappa_gateway.backend import Peer, Pod, PoolPod
from kappa_gateway.dispatcher import Dispatcher
from kappa_gateway.state import FunctionState, PodState, PodStatus

if TYPE_CHECKING:
    from kappa_gateway.pools.claim import Claim
    from kappa_gateway.pools.service import Pools

logger = logging.getLogger(__name__)


def _nothing(_: object) -> None:
    pass


class Registry:
    """Implements `backend.Sink`. `clock` gives seconds since the epoch (for cold starts' phases).

    `on_pod` is called when a pod's address becomes known, `on_pod_gone` when nothing new may go there, and
    `on_function_gone` when neither a function nor a pod of it is left.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        *,
        region: str = "us-east-1",
        account: str = "000000000000",
        on_pod: Callable[[PodState], None] = _nothing,
        on_pod_gone: Callable[[PodState], None] = _nothing,
        on_function: Callable[[FunctionState], None] = _nothing,
        on_function_gone: Callable[[FunctionState], None] = _nothing,
    ) -> None:
        self._dispatcher: Final = dispatcher
        self._clock = clock
        self._region = region
        self._account = account
        self.on_pod = on_pod
        self.on_pod_gone = on_pod_gone
        self.on_function = on_function
        self.on_function_gone = on_function_gone
        self.pools: Pools | None = None
        """Told of pool pods and peers, and of changed functions."""
        self._functions: dict[tuple[str, str], FunctionState] = {}
        self._pods: dict[tuple[str, str], PodState] = {}
        self._listed: set[str] = set()
        self.synced = asyncio.Event()
        """Set once functions and pods were listed."""
        self.version = 0
        """Changes whenever a name may mean something else, so that lookups can be cached."""

    def get(self, namespace: str, name: str) -> FunctionState | None:
        """The function of that name, None where there is none."""
        state = self._functions.get((namespace, name))
        return state if state is not None and state.function is not None else None

    def __iter__(self) -> Iterator[FunctionState]:
        return iter(self._functions.values())

    # -- functions

    def replace_functions(self, functions: Iterable[Function]) -> None:
        given = {(function.metadata.namespace, function.metadata.name): function for function in functions}
        for key in [key for key, state in self._functions.items() if state.function is not None and key not in given]:
            self.remove_function(*key)
        for function in given.values():
            self.put_function(function)
        self._list("functions")

    def put_function(self, function: Function) -> None:
        state = self._state(function.metadata.namespace, function.metadata.name)
        if state.function is None:
            self.version += 1
        state.function = function
        state.max_replicas = function.spec.scaling.max_replicas
        state.timeout = function.spec.timeout_seconds
        state.protocol = function.spec.protocol
        state.failure = failure(function)
        if self.pools is not None:
            self.pools.function_changed(state)
        self.on_function(state)
        self._dispatcher.changed(state)

    def remove_function(self, namespace: str, name: str) -> None:
        state = self._functions.get((namespace, name))
        if state is None or state.function is None:
            return
        state.function = None
        self.version += 1
        self._dispatcher.changed(state)
        self._forget_if_empty(state)

    # -- pods

    def replace_pods(self, pods: Iterable[Pod]) -> None:
        given = {(pod.namespace, pod.name): pod for pod in pods}
        for key in [key for key in self._pods if key not in given]:
            if self.pools is None or not self.pools.is_claimed(*key):
                self.remove_pod(*key)
        for pod in given.values():
            self.put_pod(pod)
        self._list("pods")

    def put_pod(self, pod: Pod) -> None:
        key = (pod.namespace, pod.name)
        known = self._pods.get(key)
        if known is not None and _is_another(known.pod, pod):
            self.remove_pod(*key)
            known = None
        if known is None:
            function = self._state(pod.namespace, pod.function)
            known = PodState(pod, function, self._clock())
            self._pods[key] = function.pods[pod.name] = known
            if self.pools is not None:
                self.pools.vacancies.remove(*key)
        elif known.claim is not None and self.pools is not None:
            self.pools.confirmed(known)
        had_address = known.addressed_at is not None
        known.pod = pod
        if pod.concurrency != known.capacity:
            self._dispatcher.set_capacity(known, pod.concurrency)
        if pod.terminating:
            if known.status is not PodStatus.DRAINING:
                self._dispatcher.set_status(known, PodStatus.DRAINING)
                self.on_pod_gone(known)
        elif pod.host is not None and not had_address:
            known.addressed_at = self._clock()
            self.on_pod(known)

    def remove_pod(self, namespace: str, name: str) -> None:
        pod = self._pods.pop((namespace, name), None)
        if pod is None:
            return
        pod.function.pods.pop(name, None)
        if self.pools is not None:
            self.pools.sharing.pod_gone(namespace, name)
        self._dispatcher.set_status(pod, PodStatus.GONE)
        self.on_pod_gone(pod)
        self._forget_if_empty(pod.function)

    # -- pods that were claimed from a pool

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        if self.pools is not None:
            self.pools.replace_pool_pods(pods)

    def put_pool_pod(self, pod: PoolPod) -> None:
        if self.pools is not None:
            self.pools.put_pool_pod(pod)

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        if self.pools is not None:
            self.pools.remove_pool_pod(namespace, name)

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        if self.pools is not None:
            self.pools.sharing.replace_peers(peers)

    def claim(self, pod: Pod, claim: "Claim") -> PodState:
        """A pool pod becomes the function's, before the platform knows."""
        function = self._state(pod.namespace, pod.function)
        state = PodState(pod, function, self._clock())
        state.claim = claim
        state.addressed_at = state.accepted_at = state.seen_at
        self._pods[pod.namespace, pod.name] = function.pods[pod.name] = state
        return state

    def give_up_claim(self, state: PodState) -> None:
        """It did not: nothing of it is left, and requests that were meant for it have to ask again."""
        key = (state.pod.namespace, state.pod.name)
        if self._pods.get(key) is state:
            del self._pods[key]
        state.function.pods.pop(state.pod.name, None)
        self._dispatcher.forget(state)
        self.on_pod_gone(state)
        self._forget_if_empty(state.function)

    # -- inside

    def _state(self, namespace: str, name: str) -> FunctionState:
        state = self._functions.get((namespace, name))
        if state is None:
            state = self._functions[namespace, name] = FunctionState(namespace, name)
            state.arn = agent_config.arn(self._region, self._account, namespace, name)
            state.request_head = (
                f"POST {wire.INVOKE_PATH} HTTP/1.1\r\nHost: {name}.{namespace}\r\nContent-Type: application/json\r\n"
                f"{wire.INVOKED_ARN}: {state.arn}\r\n{wire.REQUEST_ID}: "
            ).encode()
        return state

    def _forget_if_empty(self, state: FunctionState) -> None:
        if state.function is None and not state.pods:
            self._functions.pop((state.namespace, state.name), None)
            self.on_function_gone(state)

    def _list(self, what: str) -> None:
        self._listed.add(what)
        if len(self._listed) == 2 and not self.synced.is_set():
            logger.info("synced", extra={"functions": len(self._functions), "pods": len(self._pods)})
            self.synced.set()


def _is_another(old: Pod, new: Pod) -> bool:
    """Whether what was learned about the old pod is void: another address, or another function."""
    moved = old.host is not None and (old.host, old.port) != (new.host, new.port)
    return moved or old.function != new.function or old.protocol != new.protocol


def failure(function: Function) -> FunctionFailed | None:
    """Why no pod of the function can come, by its Ready condition for this very generation of it."""
    ready = function.condition(ConditionType.READY)
    if ready is None or ready.status != "False" or ready.reason not in BLOCKING:
        return None
    if ready.observed_generation is not None and ready.observed_generation != function.metadata.generation:
        return None
    return FunctionFailed(f"{function.key} cannot run ({ready.reason}): {ready.message}", reason=ready.reason)
