"""Which request gets which slot, and which ones wait: first come, first served. No I/O, no event loop.

- A request takes a free slot at once, of the pod with the fewest of this gateway's requests; else it waits.
- While requests wait, the source of warm pods is asked for more. It offers pods that it has claimed, or names the
  gateway that claims for this function, and then requests are passed on to that one.
- A freed slot wakes the first that waits. Nothing overtakes: while anything waits, no pod has a free slot.
- Gateways share no counter of slots: the pod itself refuses what is too much, before it runs anything. A pod that
  refused is asked again when one of our own requests there ends, or after a pause that doubles.

Every method must be called on one thread. Methods that grant or refuse call `Ticket.wake` before they return.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Final

from kappa_core.errors import FunctionNotFound, KappaError, Throttled
from kappa_core.metrics import ColdStartReason
from kappa_gateway.pods.offer import Source
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.slots import Slots
from kappa_gateway.pods.state import FunctionState, PodState, PodStatus, Ticket

ALARM_EARLY: Final = 0.002
"""Seconds by which a loop's timer may come before its moment: uvloop's clock counts milliseconds."""
_COLD_START_WEIGHT: Final = 0.3


class Dispatcher:
    """`warm` is the source of warm pods. `clock`: seconds, monotonic; `call_at(when, callback)` is by that clock.

    `on_demand(function)` is called when a function's first request starts to wait, and when requests that waited are
    passed on: its demand must be reported at once.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        warm: Source,
        *,
        call_at: Callable[[float, Callable[[], None]], object],
        on_demand: Callable[[FunctionState], None],
        max_waiting_requests: int = 1000,
        max_wait: float = 60.0,
    ) -> None:
        self._clock = clock
        self._warm = warm
        self._call_at = call_at
        self._on_demand = on_demand
        self._max_waiting = max_waiting_requests
        self._max_wait = max_wait
        self._numbers = itertools.count(1)
        self._slots = Slots(clock)
        self._waiting: dict[FunctionState, None] = {}
        self._looks: dict[FunctionState, float] = {}
        """When to ask the source again even if nothing happens."""
        warm.subscribe(self._more_to_offer)

    # -- requests

    def acquire(self, ticket: Ticket) -> bool:
        """True: the request has a slot of `ticket.pod`, or goes to the gateway `ticket.peer`. False: it waits, and
        `ticket.wake` will be called.

        Raises `FunctionNotFound`, `FunctionFailed` or `Throttled` where waiting would be useless.
        """
        function = ticket.function
        ticket.number = next(self._numbers)
        ticket.since = self._clock()
        if not function.waiters and function.max_replicas and function.manifest is not None:
            pod = self._slots.pick(function)
            if pod is not None:
                self._slots.grant(pod, ticket)
                return True
        self._check_queue(function)
        return self._enqueue(ticket, first=False)

    def admit(self, function: FunctionState) -> None:
        """Raise what `acquire` would raise now, without acquiring anything: a cheap check before a body is read."""
        if function.waiters or self._slots.pick(function) is None:
            self._check_queue(function)

    def release(self, ticket: Ticket, duration: float | None = None) -> None:
        """Release the slot, or stop waiting. `duration` (seconds) counts towards the function's mean. Idempotent."""
        pod = ticket.pod
        function = ticket.function
        if pod is None:
            if ticket.peer is not None:
                ticket.peer = None
                function.passed_on -= 1
                self._ask_warm(function)
            elif ticket in function.waiters:
                self._leave_queue(ticket)
            return
        self._slots.release(pod, ticket, duration)
        if function.waiters:
            self._pump(function)
            self._ask_warm(function)

    def refused(self, ticket: Ticket, *, draining: bool) -> bool:
        """The pod did not run the request: it is full of other gateways' requests, or it stops. The rest is as in
        `acquire`."""
        pod = ticket.pod
        assert pod is not None
        if draining:
            self.set_status(pod, PodStatus.DRAINING)
        else:
            self._call_at(self._slots.hold(pod), self.tick)
        return self._again(ticket)

    def unreachable(self, ticket: Ticket) -> bool:
        """The pod accepted no connection: it counts as starting until it is reached. The rest is as in `acquire`."""
        pod = ticket.pod
        assert pod is not None
        if pod.status in (PodStatus.READY, PodStatus.INIT_FAILED):
            self.set_status(pod, PodStatus.STARTING)
        return self._again(ticket)

    def returned(self, ticket: Ticket) -> bool:
        """The gateway that the request was passed on to did not take it: it stays here. The rest is as in `acquire`."""
        ticket.stays = True
        return self._again(ticket)

    # -- pods and functions

    def pod(self, namespace: str, name: str) -> PodState | None:
        return self._slots.pod((namespace, name))

    def pods(self) -> list[PodState]:
        return self._slots.pods()

    def add(self, pod: PodState) -> None:
        """A pod was created, or claimed."""
        self._slots.add(pod)

    def remove(self, pod: PodState) -> None:
        """It is gone."""
        self._slots.forget(pod)
        self.set_status(pod, PodStatus.GONE)

    def set_status(self, pod: PodState, status: PodStatus) -> None:
        """Note a pod's new status. `GONE` and `DRAINING` are final."""
        if pod.status is PodStatus.GONE or (pod.status is PodStatus.DRAINING and status is not PodStatus.GONE):
            return
        if status is PodStatus.READY:
            self._slots.serve(pod)
        else:
            self._slots.retire(pod, status)
        self.changed(pod.function)

    def discard(self, pod: PodState) -> None:
        """It never was the function's pod. Its requests ask again by `refused`, and keep their place."""
        self._slots.forget(pod)
        self._slots.retire(pod, PodStatus.GONE)

    def set_capacity(self, pod: PodState, capacity: int) -> None:
        self._slots.set_capacity(pod, capacity)
        self.changed(pod.function)

    def observe_cold_start(self, function: FunctionState, seconds: float) -> None:
        """How long a start by the function's Deployment took."""
        mean = function.cold_start
        function.cold_start = seconds if not mean else mean + _COLD_START_WEIGHT * (seconds - mean)

    def take_peak(self, function: FunctionState) -> int:
        """The most in flight since the last call."""
        peak, function.peak_in_flight = function.peak_in_flight, function.in_flight
        return peak

    def changed(self, function: FunctionState) -> None:
        """The function or one of its pods changed: grant what can be granted, and refuse requests that can get no slot
        any more."""
        self._slots.choose_serving(function)
        if not function.waiters:
            return
        self._pump(function)
        self._ask_warm(function)
        error = self._in_vain(function) if function.waiters else None
        if error is not None:
            for ticket in list(function.waiters):
                self._refuse(ticket, error)

    def waiting(self) -> list[FunctionState]:
        """The functions that have requests waiting, those first whose requests began to wait first."""
        return list(self._waiting)

    # -- time

    def tick(self) -> None:
        """Pods that refused are asked again once their pause is over."""
        due = self._clock() + ALARM_EARLY
        for pod in self._slots.held_until(due):
            self._slots.lift(pod)
            self._pump(pod.function)

    def expire(self) -> None:
        """To be called a few times a second: requests that have waited for too long are refused."""
        now = self._clock()
        for function in list(self._waiting):
            while function.waiters:
                ticket = next(iter(function.waiters))
                if ticket.since + self._max_wait > now:
                    break
                starting = sum(pod.status is PodStatus.STARTING for pod in function.pods.values())
                self._refuse(
                    ticket,
                    Throttled(
                        f"{function.key}: no pod was free within {self._max_wait:g} s "
                        f"({len(function.pods)} pods, {starting} of them starting, at most {function.max_replicas}); "
                        "try again later",
                        retry_after=self._retry_after(function),
                    ),
                )

    # -- inside

    def _check_queue(self, function: FunctionState) -> None:
        """Raise if no request may start to wait for this function."""
        error = self._in_vain(function)
        if error is None and len(function.waiters) >= self._max_waiting:
            error = Throttled(
                f"{function.key}: {len(function.waiters)} requests wait for a pod already, which is the limit; "
                "try again later",
                retry_after=self._retry_after(function),
            )
        if error is not None:
            raise error

    def _pump(self, function: FunctionState) -> None:
        if function.manifest is None or not function.max_replicas:
            return
        while function.waiters:
            pod = self._slots.pick(function)
            if pod is None:
                return
            ticket = next(iter(function.waiters))
            self._leave_queue(ticket)
            self._slots.grant(pod, ticket)
            if ticket.wake is not None:
                ticket.wake()

    def _again(self, ticket: Ticket) -> bool:
        """The ticket's slot could not be used: take another pod, or wait at the same place in line."""
        function = ticket.function
        if ticket.pod is not None and function.peak_in_flight == function.in_flight:
            # it never was in flight: as one that waits it is counted once
            function.peak_in_flight -= 1
        self.release(ticket)
        if not function.waiters or next(iter(function.waiters)).number > ticket.number:
            pod = self._slots.pick(function) if function.manifest is not None and function.max_replicas else None
            if pod is not None:
                self._slots.grant(pod, ticket)
                return True
        error = self._in_vain(function)
        if error is not None:
            raise error
        return self._enqueue(ticket, first=True)

    def _enqueue(self, ticket: Ticket, *, first: bool) -> bool:
        """It waits (False), unless the source of warm pods has something for it."""
        function = ticket.function
        waiters = function.waiters
        begins = not waiters
        if first:
            earlier = list(itertools.takewhile(lambda other: other.number < ticket.number, waiters))
            for other in (ticket, *reversed(earlier)):
                waiters[other] = None
                waiters.move_to_end(other, last=False)
        else:
            waiters[ticket] = None
        if begins:
            self._waiting[function] = None
        reason = self._ask_warm(function)
        if ticket.pod is not None or ticket.peer is not None:
            return True
        if ticket.cold_reason is None:
            ticket.cold_reason = reason
        if begins:
            self._on_demand(function)
        return False

    def _ask_warm(self, function: FunctionState) -> ColdStartReason:
        """Apply what the source of warm pods offers. Returns why it did not offer more."""
        if not function.waiters:
            return ColdStartReason.CLAIMED
        offer = self._warm.offer(function)
        for pod in offer.pods:
            self._slots.add(pod)
            self._slots.serve(pod)
        if offer.pods:
            self._pump(function)
        if offer.peer is not None:
            self._pass_on(function, offer.peer, offer.pass_on)
        if offer.look_again is not None and function.waiters:
            self._look_again(function, offer.look_again)
        return offer.reason

    def _pass_on(self, function: FunctionState, peer: Peer, count: int) -> None:
        waited = False
        for ticket in list(itertools.islice((one for one in function.waiters if not one.stays), max(count, 0))):
            waited = waited or ticket.cold_reason is not None
            self._leave_queue(ticket)
            ticket.peer = peer
            function.passed_on += 1
            if ticket.wake is not None:
                ticket.wake()
        if waited:
            # it was reported as waiting here, and must not count twice
            self._on_demand(function)

    def _look_again(self, function: FunctionState, after: float) -> None:
        now = self._clock()
        if self._looks.get(function, 0.0) <= now:
            self._looks[function] = now + after
            self._call_at(now + after, partial(self._look, function))

    def _look(self, function: FunctionState) -> None:
        self._looks.pop(function, None)
        self._ask_warm(function)

    def _more_to_offer(self, namespace: str, runtime: str) -> None:
        """A pool pod became free: the function whose requests have waited longest may have use for it."""
        for function in self.waiting():
            if function.namespace == namespace and function.manifest and function.manifest.spec.runtime == runtime:
                self._ask_warm(function)

    def _leave_queue(self, ticket: Ticket) -> None:
        function = ticket.function
        del function.waiters[ticket]
        if not function.waiters:
            self._waiting.pop(function, None)

    def _refuse(self, ticket: Ticket, error: KappaError) -> None:
        self._leave_queue(ticket)
        ticket.error = error
        if ticket.wake is not None:
            ticket.wake()

    @staticmethod
    def _in_vain(function: FunctionState) -> KappaError | None:
        if function.manifest is None:
            return FunctionNotFound(f"Function not found: {function.key} does not exist (or no longer)")
        if not function.max_replicas:
            return Throttled(
                f"{function.key}: its scaling.maxReplicas is 0, which refuses every invocation; set it to 1 or more",
                reason="ReservedFunctionConcurrentInvocationLimitExceeded",
            )
        if function.failure is not None and not any(
            pod.status is PodStatus.READY or pod.status is PodStatus.INIT_FAILED for pod in function.pods.values()
        ):
            return function.failure
        return None

    @staticmethod
    def _retry_after(function: FunctionState) -> float:
        """An estimate of the seconds until the requests that wait now are served, between 1 and 30."""
        slots = sum(pod.capacity for pod in function.pods.values()) or 1
        return float(math.ceil(min(max(len(function.waiters) * (function.mean_duration or 1.0) / slots, 1.0), 30.0)))
