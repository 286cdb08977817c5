"""The life of this gateway's claims: what to do after each answer of a claimed pod and each change that the platform
reports.

`source` opens a claim; it ends here. `pods.claim` has the states and what leads from one to the next.
"""

import asyncio
import contextlib
import logging
from typing import Final

from kappa_core import wire
from kappa_core.errors import KappaError
from kappa_gateway.pods.claim import ClaimEvent, ClaimState
from kappa_gateway.pods.demand import DemandFeed
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.readiness import READY_WAIT, ask_ready, read_ready
from kappa_gateway.pods.state import PodState, PodStatus
from kappa_gateway.pods.warm.book import ClaimBook
from kappa_gateway.pods.warm.free_pods import SHUN, FreePods

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 0.25
"""Seconds in which a pool pod must take a connection: it did a moment ago, and there are others."""
_REPORT_AFTER: Final = 0.05
"""Seconds after which the operator is notified of a claim that has no answer yet. Earlier, the operator's work would
take processor time from the cold start."""
_ASK_AFTER: Final = 0.02
"""Seconds after which a pod that can run several invocations is asked whether it has taken the function, though its
first answer is not here yet."""
_ASK_PAUSE: Final = 0.02
_RELABEL_TIMEOUT: Final = 10.0
"""Seconds in which a claimed pod that has left its pool must be shown as the function's."""


class Claims:
    def __init__(
        self,
        book: ClaimBook,
        free_pods: FreePods,
        functions: Functions,
        dispatcher: Dispatcher,
        demand: DemandFeed,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._book = book
        self._free_pods = free_pods
        self._functions = functions
        self._dispatcher = dispatcher
        self._demand = demand
        self._loop = loop
        self._asking: set[asyncio.Task[None]] = set()

    # -- what its first request shows

    def sent(self, pod: PodState, spec_hash: str) -> None:
        """The specialize request is on its way."""
        if pod.claim is None or not pod.claim.advance(ClaimEvent.SEND):
            return
        pod.claim.spec_hash = spec_hash
        self._loop.call_later(_REPORT_AFTER, self._report, pod)
        if self._concurrency(pod) > 1:
            self._loop.call_later(_ASK_AFTER, self._ask, pod)

    def accepted(self, pod: PodState) -> None:
        """The pod answered the first invocation: from now on it is a pod of the function like any other."""
        if pod.claim is not None:
            pod.claim.advance(ClaimEvent.ACCEPT)
        self._open_slots(pod)
        # in the loop's next turn: the answer leaves first
        self._loop.call_soon(self._report, pod)

    def refused(self, pod: PodState, reason: str) -> None:
        """The pod did not take the function, and ran nothing."""
        if reason in (wire.REFUSED_TAKEN, wire.REFUSED_DRAINING):
            self._release(pod, shun=float("inf"))
            return
        logger.warning(
            "a pool pod refused a function (%s): the gateway's private key and the pools' public key must be one pair, "
            "the clocks of the nodes right, and gateway and pools of one version",
            reason,
            extra={"function": pod.function.key, "pod": pod.name},
        )
        self._release(pod, shun=SHUN)

    def unreachable(self, pod: PodState) -> None:
        """The pod took no connection, or no request was sent to it."""
        self._release(pod)

    def uncertain(self, pod: PodState) -> None:
        """The specialize request got no answer: the pod has to be asked whether it took the function."""
        self._dispatcher.set_status(pod, PodStatus.STARTING)

    def has_no_function(self, pod: PodState) -> None:
        """Its agent says so: the specialize request never arrived, or the container was started again."""
        if pod.claim is not None and pod.claim.is_pending:
            self._release(pod)
            return
        logger.warning(
            "a pod lost its function, as its container was started again: it is not used any more",
            extra={"function": pod.function.key, "pod": pod.name},
        )
        self._dispatcher.set_status(pod, PodStatus.DRAINING)
        if pod.endpoint is not None:
            pod.endpoint.retire()

    # -- what the platform shows

    def confirmed(self, pod: PodState) -> None:
        """The pod is shown as the function's."""
        if pod.claim is not None and pod.claim.advance(ClaimEvent.CONFIRM):
            self._settle(pod)

    def gone(self, pod: PodState) -> None:
        """The pod is gone."""
        if pod.claim is not None and pod.claim.advance(ClaimEvent.LOSE):
            self._settle(pod)

    def left_pool(self, key: tuple[str, str]) -> None:
        """The pod is not shown in a pool any more: it has its label, which the other watch will show, or is gone."""
        pod = self._book.get(key)
        if pod is not None:
            self._loop.call_later(_RELABEL_TIMEOUT, self._check_label, pod)

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    # -- inside

    def _settle(self, pod: PodState) -> None:
        self._book.close(pod)
        if pod.claim is not None:
            self._free_pods.settle(pod.claim.pod)

    def _release(self, pod: PodState, *, shun: float = 0.0) -> None:
        """It never became the function's pod. Requests that it was meant for ask again."""
        if pod.claim is None or not pod.claim.advance(ClaimEvent.RELEASE):
            return
        self._book.close(pod)
        self._dispatcher.discard(pod)
        if pod.endpoint is not None:
            pod.endpoint.retire()
        self._functions.discard_if_unused(pod.function)
        self._free_pods.release(pod.claim.pod, shun=shun)

    def _report(self, pod: PodState) -> None:
        claim = pod.claim
        reported = claim.as_reported(pod.function.name) if claim is not None else None
        if claim is not None and reported is not None and not claim.is_reported:
            claim.is_reported = True
            self._demand.claimed(pod.function, reported)

    def _concurrency(self, pod: PodState) -> int:
        return pod.function.manifest.spec.concurrency if pod.function.manifest is not None else 1

    def _open_slots(self, pod: PodState) -> None:
        """Until the pod has taken the function, it gets only its first request. Then all of its slots may be used."""
        if pod.capacity != self._concurrency(pod):
            self._dispatcher.set_capacity(pod, self._concurrency(pod))

    def _ask(self, pod: PodState) -> None:
        """Its first invocation takes long: the other slots need not wait for its end."""
        task = self._loop.create_task(self._until_taken(pod), name=f"ask pod {pod.name} for its function")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _until_taken(self, pod: PodState) -> None:
        claim, endpoint = pod.claim, pod.endpoint
        if claim is None or endpoint is None:
            return
        while claim.state is ClaimState.SENT and pod.status is PodStatus.READY:
            with contextlib.suppress(OSError, KappaError):
                connection = await endpoint.connect(CONNECT_TIMEOUT)
                status, body = await ask_ready(connection, endpoint.host, READY_WAIT, READY_WAIT + 5)
                if status == 200 and read_ready(body)[1] == pod.function.key:
                    endpoint.keep(connection)
                    self._open_slots(pod)
                    return
                connection.close()
            await asyncio.sleep(_ASK_PAUSE)

    def _check_label(self, pod: PodState) -> None:
        if self._book.get(pod.key) is not pod or self._free_pods.is_listed(pod.key):
            return
        logger.info(
            "a claimed pool pod is gone",
            extra={"function": pod.function.key, "pod": pod.name},
        )
        self.gone(pod)
        self._dispatcher.remove(pod)
        if pod.endpoint is not None:
            pod.endpoint.retire()
        self._functions.discard_if_unused(pod.function)
