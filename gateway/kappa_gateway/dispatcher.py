"""Which request goes to which pod: slots and waiting requests, first come first served. No I/O, no event loop.

- A request takes a free slot at once, of the pod with the fewest of this gateway's requests; else it waits.
- A freed slot wakes the first that waits. Nobody overtakes: while anything waits, no pod has a free slot.
- Several gateways share no counter: the pod itself refuses what is too much, before it runs anything. A pod that
  refused is asked again when one of our own requests there ends, or after a pause that doubles.

Every method must be called on one thread. Methods that grant or refuse call `Ticket.wake` before they return.
"""

import itertools
import math
from collections.abc import Callable
from typing import Final

from kappa_core.errors import FunctionNotFound, KappaError, Throttled
from kappa_gateway.state import FunctionState, PodState, PodStatus, Ticket

FIRST_PAUSE: Final = 0.01
"""Seconds until a pod that refused is asked again, the first time in a row; doubles up to `LONGEST_PAUSE`."""
LONGEST_PAUSE: Final = 0.32
ALARM_EARLY: Final = 0.002
"""Seconds by which a loop's timer may come before its moment: uvloop's clock counts milliseconds."""
_WEIGHT: Final = 0.2
"""Of the newest value in moving averages."""


class Dispatcher:
    """`on_waiting(function)` is called when a function's first request starts to wait, `on_alarm(when)` when `tick` is
    to be called at `when` by `clock` (seconds, monotonic). `claim(function)` may give a `claimable` function that has
    requests waiting another pod at once, by `set_status`."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_waiting_requests: int = 1000,
        max_wait: float = 60.0,
        on_waiting: Callable[[FunctionState], None] = lambda _: None,
        claim: Callable[[FunctionState], None] = lambda _: None,
        on_alarm: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._max_waiting_requests = max_waiting_requests
        self._max_wait = max_wait
        self.on_waiting = on_waiting
        self.claim = claim
        self.on_alarm = on_alarm
        self._numbers = itertools.count(1)
        self._waiting: dict[FunctionState, None] = {}
        self._held: dict[PodState, None] = {}

    # -- requests

    def acquire(self, ticket: Ticket) -> bool:
        """True: `ticket.pod` is its slot. False: it waits, and `ticket.wake` will be called.

        Raises `FunctionNotFound`, `FunctionFailed` or `Throttled` where waiting would be in vain.
        """
        function = ticket.function
        ticket.number = next(self._numbers)
        ticket.since = self._clock()
        if not function.waiters and function.max_replicas and function.function is not None:
            pod = self._pick(function)
            if pod is not None:
                self._grant(pod, ticket)
                return True
        self._check_queue(function)
        return self._enqueue(ticket, first=False)

    def admit(self, function: FunctionState) -> None:
        """Raise what `acquire` would raise now: worth asking before a body is read, and holds nothing."""
        if function.waiters or self._pick(function) is None:
            self._check_queue(function)

    def release(self, ticket: Ticket, duration: float | None = None) -> None:
        """Give the slot back, or stop waiting. `duration` (seconds) counts towards the function's mean. Idempotent."""
        pod = ticket.pod
        function = ticket.function
        if pod is None:
            if ticket in function.waiters:
                del function.waiters[ticket]
                if not function.waiters:
                    self._waiting.pop(function, None)
            return
        ticket.pod = None
        pod.outstanding -= 1
        function.in_flight -= 1
        if duration is not None:
            mean = function.mean_duration
            function.mean_duration = duration if not mean else mean + _WEIGHT * (duration - mean)
            pod.backoff = 0.0
        if pod.status is PodStatus.READY and pod.outstanding < pod.limit:
            function.available[pod] = None
        if function.waiters:
            self._pump(function)
            self._claim(function)

    def refused(self, ticket: Ticket, *, draining: bool) -> bool:
        """The pod did not run the request: it is full (other gateways' load), or it stops. As `acquire` for what follows."""
        pod = ticket.pod
        assert pod is not None
        if draining:
            self.set_status(pod, PodStatus.DRAINING)
        else:
            pod.backoff = min(max(pod.backoff * 2, FIRST_PAUSE), LONGEST_PAUSE)
            pod.limit = pod.outstanding - 1
            pod.held_until = self._clock() + pod.backoff
            self._held[pod] = None
            pod.function.available.pop(pod, None)
            self.on_alarm(pod.held_until)
        return self._again(ticket)

    def unreachable(self, ticket: Ticket) -> bool:
        """The pod took no connection: it counts as starting again until it is reached. As `acquire` for what follows."""
        pod = ticket.pod
        assert pod is not None
        if pod.status in (PodStatus.READY, PodStatus.INIT_FAILED):
            self.set_status(pod, PodStatus.STARTING)
        return self._again(ticket)

    # -- pods and functions

    def set_status(self, pod: PodState, status: PodStatus) -> None:
        """What is newly known of a pod. `GONE` and `DRAINING` are for good."""
        if pod.status is PodStatus.GONE or (pod.status is PodStatus.DRAINING and status is not PodStatus.GONE):
            return
        pod.status = status
        if status is PodStatus.READY:
            self._lift(pod)
        else:
            pod.function.available.pop(pod, None)
            self._held.pop(pod, None)
        self.changed(pod.function)

    def forget(self, pod: PodState) -> None:
        """It never was the function's. Nobody is told: whoever held a slot of it asks again by `refused`, at its place."""
        pod.status = PodStatus.GONE
        pod.function.available.pop(pod, None)
        self._held.pop(pod, None)

    def set_capacity(self, pod: PodState, capacity: int) -> None:
        pod.capacity = capacity
        self._lift(pod)
        self.changed(pod.function)

    def changed(self, function: FunctionState) -> None:
        """The function or one of its pods changed: serve who can be served, and tell those who wait in vain."""
        if not function.waiters:
            return
        self._pump(function)
        self._claim(function)
        error = self._in_vain(function) if function.waiters else None
        if error is not None:
            for ticket in list(function.waiters):
                self._refuse(ticket, error)

    def waiting(self) -> list[FunctionState]:
        """The functions that have requests waiting, those first whose requests began to wait first."""
        return list(self._waiting)

    # -- time

    def tick(self) -> None:
        """To be called at the moments that `on_alarm` asked for: pods that refused are asked again."""
        due = self._clock() + ALARM_EARLY
        for pod in [pod for pod in self._held if pod.held_until <= due]:
            self._lift(pod)
            self._pump(pod.function)

    def expire(self) -> None:
        """To be called every now and then: who has waited for too long is told so."""
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
                        f"({len(function.pods)} pods, {starting} of them starting, at most {function.max_replicas}); try again later",
                        retry_after=self._retry_after(function),
                    ),
                )

    # -- inside

    def _check_queue(self, function: FunctionState) -> None:
        """Raise if nobody may start to wait for this function."""
        error = self._in_vain(function)
        if error is None and len(function.waiters) >= self._max_waiting_requests:
            error = Throttled(
                f"{function.key}: {len(function.waiters)} requests wait for a pod already, which is the limit; try again later",
                retry_after=self._retry_after(function),
            )
        if error is not None:
            raise error

    def _pick(self, function: FunctionState) -> PodState | None:
        best = None
        for pod in reversed(function.available):
            if not pod.outstanding:
                return pod
            if best is None or pod.outstanding < best.outstanding:
                best = pod
        if best is None and function.pods:
            return self._pick_failed(function)
        return best

    @staticmethod
    def _pick_failed(function: FunctionState) -> PodState | None:
        """A pod whose init failed, where there is no hope of a better one: the caller gets Lambda's error from it."""
        best = None
        for pod in function.pods.values():
            if pod.status is PodStatus.READY or pod.status is PodStatus.STARTING:
                return None
            if (
                pod.status is PodStatus.INIT_FAILED
                and pod.outstanding < pod.limit
                and (best is None or pod.outstanding < best.outstanding)
            ):
                best = pod
        return best

    def _grant(self, pod: PodState, ticket: Ticket) -> None:
        function = ticket.function
        pod.outstanding += 1
        if pod.outstanding >= pod.limit:
            function.available.pop(pod, None)
        if not function.in_flight:
            function.busy_since = self._clock()
        function.in_flight += 1
        if function.in_flight > function.peak_in_flight:
            function.peak_in_flight = function.in_flight
        ticket.pod = pod

    def _pump(self, function: FunctionState) -> None:
        if function.function is None or not function.max_replicas:
            return
        while function.waiters:
            pod = self._pick(function)
            if pod is None:
                return
            ticket, _ = function.waiters.popitem(last=False)
            if not function.waiters:
                self._waiting.pop(function, None)
            self._grant(pod, ticket)
            if ticket.wake is not None:
                ticket.wake()

    def _again(self, ticket: Ticket) -> bool:
        """The ticket's slot came to nothing: take another pod, or wait at the place it had."""
        function = ticket.function
        if function.peak_in_flight == function.in_flight:
            # it never was in flight: as one that waits it is counted once
            function.peak_in_flight -= 1
        self.release(ticket)
        if not function.waiters or next(iter(function.waiters)).number > ticket.number:
            pod = self._pick(function) if function.function is not None and function.max_replicas else None
            if pod is not None:
                self._grant(pod, ticket)
                return True
        error = self._in_vain(function)
        if error is not None:
            raise error
        return self._enqueue(ticket, first=True)

    def _enqueue(self, ticket: Ticket, *, first: bool) -> bool:
        """It waits (False), unless a pod could be claimed for it."""
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
        self._claim(function)
        if ticket.pod is not None:
            return True
        if ticket.cold_reason is None:
            ticket.cold_reason = function.cold_reason
        if begins:
            self.on_waiting(function)
        return False

    def _claim(self, function: FunctionState) -> None:
        if function.claimable and function.waiters:
            self.claim(function)

    def _refuse(self, ticket: Ticket, error: KappaError) -> None:
        function = ticket.function
        del function.waiters[ticket]
        if not function.waiters:
            self._waiting.pop(function, None)
        ticket.error = error
        if ticket.wake is not None:
            ticket.wake()

    def _lift(self, pod: PodState) -> None:
        """The pod may be asked for all of its slots again."""
        self._held.pop(pod, None)
        pod.held_until = 0.0
        pod.limit = pod.capacity
        if pod.status is PodStatus.READY and pod.outstanding < pod.limit:
            pod.function.available[pod] = None
        else:
            pod.function.available.pop(pod, None)

    @staticmethod
    def _in_vain(function: FunctionState) -> KappaError | None:
        if function.function is None:
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
        """Seconds until those who wait now are served, by what is known, between 1 and 30."""
        slots = sum(pod.capacity for pod in function.pods.values()) or 1
        return float(math.ceil(min(max(len(function.waiters) * (function.mean_duration or 1.0) / slots, 1.0), 30.0)))
