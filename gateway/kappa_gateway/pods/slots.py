"""The pods of every function, which of them serve, and their slots. No I/O, no clock of its own.

No more than `maxReplicas` pods of a function serve. A ready pod beyond that stays idle until another one goes: for
example the pod that a ReplicaSet created in place of a claimed one, or the new pod of a rollout.
"""

from collections.abc import Callable
from typing import Final

from kappa_gateway.pods.state import FunctionState, PodState, PodStatus, Ticket

FIRST_PAUSE: Final = 0.01
"""Seconds until a pod that refused is asked again, the first time in a row; doubles up to `LONGEST_PAUSE`."""
LONGEST_PAUSE: Final = 0.32
_WEIGHT: Final = 0.2
"""Weight of the newest duration in the moving average."""


class Slots:
    """`clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pods: dict[tuple[str, str], PodState] = {}
        """By namespace and name."""
        self._held: dict[PodState, None] = {}
        """Pods that refused, and are not asked again yet."""

    # -- pods

    def pod(self, key: tuple[str, str]) -> PodState | None:
        return self._pods.get(key)

    def pods(self) -> list[PodState]:
        return list(self._pods.values())

    def add(self, pod: PodState) -> None:
        self._pods[pod.key] = pod.function.pods[pod.name] = pod

    def forget(self, pod: PodState) -> None:
        if self._pods.get(pod.key) is pod:
            del self._pods[pod.key]
        if pod.function.pods.get(pod.name) is pod:
            del pod.function.pods[pod.name]

    # -- which of them serve

    def serve(self, pod: PodState) -> None:
        """It is ready: it serves, unless `maxReplicas` pods do already."""
        pod.status = PodStatus.READY
        if len(pod.function.serving) < pod.function.max_replicas:
            pod.function.serving[pod] = None
        self.lift(pod)

    def retire(self, pod: PodState, status: PodStatus) -> None:
        """It is not ready, or no longer."""
        pod.status = status
        pod.function.serving.pop(pod, None)
        pod.function.available.pop(pod, None)
        self._held.pop(pod, None)

    def choose_serving(self, function: FunctionState) -> None:
        """As many ready pods serve as `maxReplicas` allows, those first that have served before."""
        while len(function.serving) > max(function.max_replicas, 0):
            pod, _ = function.serving.popitem()
            function.available.pop(pod, None)
        if len(function.serving) < min(function.max_replicas, len(function.pods)):
            for pod in function.pods.values():
                if pod.status is PodStatus.READY and pod not in function.serving:
                    self.serve(pod)

    def set_capacity(self, pod: PodState, capacity: int) -> None:
        pod.capacity = capacity
        self.lift(pod)

    def hold(self, pod: PodState) -> float:
        """It refused, full of other gateways' requests. Returns when it may be asked again."""
        pod.backoff = min(max(pod.backoff * 2, FIRST_PAUSE), LONGEST_PAUSE)
        pod.limit = pod.outstanding - 1
        pod.held_until = self._clock() + pod.backoff
        self._held[pod] = None
        pod.function.available.pop(pod, None)
        return pod.held_until

    def held_until(self, due: float) -> list[PodState]:
        """Those that may be asked again by then."""
        return [pod for pod in self._held if pod.held_until <= due]

    def lift(self, pod: PodState) -> None:
        """All of its slots may be asked for again."""
        self._held.pop(pod, None)
        pod.held_until = 0.0
        pod.limit = pod.capacity
        self._note_available(pod)

    # -- slots

    def grant(self, pod: PodState, ticket: Ticket) -> None:
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

    def release(self, pod: PodState, ticket: Ticket, duration: float | None) -> None:
        """`duration` (seconds) counts towards the function's mean."""
        function = ticket.function
        ticket.pod = None
        pod.outstanding -= 1
        function.in_flight -= 1
        if duration is not None:
            mean = function.mean_duration
            function.mean_duration = duration if not mean else mean + _WEIGHT * (duration - mean)
            pod.backoff = 0.0
        if pod.outstanding < pod.limit and pod in function.serving:
            function.available[pod] = None

    @staticmethod
    def pick(function: FunctionState) -> PodState | None:
        """The pod with a free slot that has the fewest of our requests."""
        best = None
        for pod in reversed(function.available):
            if not pod.outstanding:
                return pod
            if best is None or pod.outstanding < best.outstanding:
                best = pod
        if best is None and function.pods:
            return _pick_failed(function)
        return best

    @staticmethod
    def _note_available(pod: PodState) -> None:
        if pod.outstanding < pod.limit and pod in pod.function.serving:
            pod.function.available[pod] = None
        else:
            pod.function.available.pop(pod, None)


def _pick_failed(function: FunctionState) -> PodState | None:
    """A pod whose init failed, if the function has no better one: the caller gets Lambda's error from it."""
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
