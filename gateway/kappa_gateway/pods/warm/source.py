"""What warm pools offer a function whose requests wait: pods claimed for it, or the name of the gateway that claims for
it."""

import logging
from collections.abc import Callable
from typing import Final

from kappa_core.function import ArchiveCode, Function
from kappa_core.metrics import ColdStartReason
from kappa_gateway.pods.offer import Offer
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.pods.warm.book import ClaimBook
from kappa_gateway.pods.warm.decision import Decision, Situation, decide
from kappa_gateway.pods.warm.free_pods import FreePods
from kappa_gateway.pods.warm.ownership import Ownership

logger = logging.getLogger(__name__)

MOST_PASSED_ON: Final = 1000
"""Requests of one function that are at another gateway at a time."""


class WarmPods:
    """The dispatcher's `offer.Source`.

    `clock` is the dispatcher's (seconds, monotonic), `wall_clock` gives seconds since the epoch. `prefetch` is called
    with the archive of a function that may be started from a pool.
    """

    def __init__(
        self,
        free_pods: FreePods,
        ownership: Ownership,
        book: ClaimBook,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        prefetch: Callable[[ArchiveCode], None],
    ) -> None:
        self._free_pods = free_pods
        self._ownership = ownership
        self._book = book
        self._clock = clock
        self._wall_clock = wall_clock
        self._prefetch = prefetch
        self._unfit: dict[FunctionState, Function] = {}
        """Functions that proved too large for a specialize request, as they were then."""

    def subscribe(self, listener: Callable[[str, str], None]) -> None:
        self._free_pods.subscribe(listener)

    def offer(self, function: FunctionState) -> Offer:
        """Claims pods, where this gateway claims for the function."""
        manifest = function.manifest
        if manifest is None or not self.serves(function):
            return Offer()
        if not self._ownership.is_known:
            return Offer(reason=ColdStartReason.NO_POOL)
        owner = self._ownership.owner(function.key)
        if owner is None:
            return Offer(reason=ColdStartReason.HANDOVER)
        runtime = manifest.spec.runtime or ""
        if not self._ownership.is_own(owner):
            if owner.host is None:
                return Offer(reason=ColdStartReason.HANDOVER)
            decision = self._decide(function, runtime, manifest.spec.concurrency)
            # without a pod of its own it cannot serve at all
            count = decision.claims if function.serving else len(function.waiters)
            count = min(count, MOST_PASSED_ON - function.passed_on)
            return Offer(reason=decision.reason, peer=owner, pass_on=count, look_again=decision.look_again)
        if not self._free_pods.known(function.namespace, runtime):
            return Offer(reason=ColdStartReason.NO_POOL)
        decision = self._decide(function, runtime, manifest.spec.concurrency)
        pods = []
        for _ in range(decision.claims):
            free = self._free_pods.take(function.namespace, runtime)
            if free is not None:
                pods.append(self._book.open(function, free, self._wall_clock()))
        return Offer(tuple(pods), decision.reason, look_again=decision.look_again)

    def serves(self, function: FunctionState) -> bool:
        """Whether the function's cold starts go through pools."""
        return function.is_pool_eligible and self._unfit.get(function) is not function.manifest

    def claimant(self, function: FunctionState) -> Peer | None:
        """The other gateway that claims pool pods for the function; None where that is this one, or none does."""
        if not self.serves(function):
            return None
        owner = self._ownership.owner(function.key)
        return None if owner is None or self._ownership.is_own(owner) or owner.host is None else owner

    def refuse(self, function: FunctionState, why: str) -> None:
        """The function is too large for a specialize request: pools offer it nothing until it changes."""
        logger.warning("a function does not fit a pool pod: %s", why, extra={"function": function.key})
        if function.manifest is not None:
            self._unfit[function] = function.manifest

    # -- a listener of `functions.Functions`

    def function_changed(self, function: FunctionState) -> None:
        manifest = function.manifest
        if manifest is not None and function.is_pool_eligible and manifest.spec.code.archive is not None:
            self._prefetch(manifest.spec.code.archive)

    def function_gone(self, function: FunctionState) -> None:
        self._unfit.pop(function, None)

    # -- inside

    def _decide(self, function: FunctionState, runtime: str, concurrency: int) -> Decision:
        counted = [pod for pod in function.pods.values() if pod.is_counted]
        addressed = sum(pod.endpoint is not None for pod in counted)
        return decide(
            Situation(
                waiting=len(function.waiters),
                in_flight=function.in_flight,
                max_replicas=function.max_replicas,
                concurrency=concurrency,
                mean_duration=function.mean_duration,
                running=self._clock() - function.busy_since if function.in_flight else 0.0,
                cold_start=function.cold_start,
                pods=addressed + function.passed_on,
                begun=len(counted) - addressed,
                free=self._free_pods.free(function.namespace, runtime),
            )
        )
