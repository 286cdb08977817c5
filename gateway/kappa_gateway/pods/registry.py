"""Applies what a backend reports: functions, pods, pool pods and the other gateways."""

import logging
from collections.abc import Callable, Iterable

from kappa_core.function import Function
from kappa_gateway.pods.dialer import Dialer
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.platform import Peer, Pod, PoolPod
from kappa_gateway.pods.state import PodState, PodStatus
from kappa_gateway.pods.warm.claims import Claims
from kappa_gateway.pods.warm.free_pods import FreePods
from kappa_gateway.pods.warm.ownership import Ownership
from kappa_gateway.transport.endpoint import Upstream

logger = logging.getLogger(__name__)


class Registry:
    """A `platform.Sink`. `wall_clock` gives seconds since the epoch, for the phases of cold starts."""

    def __init__(
        self,
        functions: Functions,
        dispatcher: Dispatcher,
        dialer: Dialer,
        claims: Claims,
        free_pods: FreePods,
        ownership: Ownership,
        upstream: Upstream,
        wall_clock: Callable[[], float],
    ) -> None:
        self._functions = functions
        self._dispatcher = dispatcher
        self._dialer = dialer
        self._claims = claims
        self._free_pods = free_pods
        self._ownership = ownership
        self._upstream = upstream
        self._wall_clock = wall_clock
        self._listed: set[str] = set()

    # -- functions

    def replace_functions(self, functions: Iterable[Function]) -> None:
        given = {(function.metadata.namespace, function.metadata.name): function for function in functions}
        for state in list(self._functions):
            if state.manifest is not None and (state.namespace, state.name) not in given:
                self.remove_function(state.namespace, state.name)
        for function in given.values():
            self.put_function(function)
        self._list("functions")

    def put_function(self, function: Function) -> None:
        self._dispatcher.changed(self._functions.put(function))

    def remove_function(self, namespace: str, name: str) -> None:
        state = self._functions.remove(namespace, name)
        if state is not None:
            self._dispatcher.changed(state)
            self._functions.discard_if_unused(state)

    # -- pods

    def replace_pods(self, pods: Iterable[Pod]) -> None:
        given = {(pod.namespace, pod.name): pod for pod in pods}
        for known in self._dispatcher.pods():
            # a claimed pod is not listed until it has its label
            if known.key not in given and not (known.claim is not None and known.claim.is_pending):
                self._remove(known)
        for pod in given.values():
            self.put_pod(pod)
        self._list("pods")

    def put_pod(self, pod: Pod) -> None:
        known = self._dispatcher.pod(pod.namespace, pod.name)
        if known is not None and _is_another(known.observed, pod):
            self._remove(known)
            known = None
        if known is None:
            known = PodState(pod, self._functions.state(pod.namespace, pod.function), self._wall_clock())
            self._dispatcher.add(known)
            self._free_pods.drop(known.key)
        else:
            self._claims.confirmed(known)
        known.observed = pod
        if pod.concurrency != known.capacity:
            self._dispatcher.set_capacity(known, pod.concurrency)
        if pod.host is not None and known.endpoint is None:
            known.start.addressed = self._wall_clock()
            # of a terminating pod too: it may keep the answers of events
            known.endpoint = self._upstream.endpoint(pod.host, pod.port, f"pod {pod.name}")
            if not pod.terminating:
                self._dialer.dial(known)
        if pod.terminating and known.status is not PodStatus.DRAINING:
            self._dispatcher.set_status(known, PodStatus.DRAINING)
            self._leave(known)

    def remove_pod(self, namespace: str, name: str) -> None:
        pod = self._dispatcher.pod(namespace, name)
        if pod is not None:
            self._remove(pod)

    # -- pools

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        for key in self._free_pods.replace(pods):
            self._claims.left_pool(key)

    def put_pool_pod(self, pod: PoolPod) -> None:
        self._free_pods.put(pod)

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        self._free_pods.remove(namespace, name)
        self._claims.left_pool((namespace, name))

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        self._ownership.replace_peers(peers)

    # -- inside

    def _remove(self, pod: PodState) -> None:
        self._claims.gone(pod)
        self._dispatcher.remove(pod)
        self._leave(pod)
        self._functions.discard_if_unused(pod.function)

    def _leave(self, pod: PodState) -> None:
        """Nothing new goes to it."""
        self._dialer.stop(pod)
        if pod.endpoint is not None:
            pod.endpoint.retire()

    def _list(self, what: str) -> None:
        self._listed.add(what)
        if len(self._listed) == 2 and not self._functions.synced.is_set():
            logger.info("synced", extra={"functions": len(self._functions), "pods": len(self._dispatcher.pods())})
            self._functions.synced.set()


def _is_another(old: Pod, new: Pod) -> bool:
    """Whether what was learned about the old pod is void: another address, or another function."""
    moved = old.host is not None and (old.host, old.port) != (new.host, new.port)
    return moved or old.function != new.function or old.protocol != new.protocol
