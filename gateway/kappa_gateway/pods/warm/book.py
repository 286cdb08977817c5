"""The claims of this gateway whose pods the platform does not show as the functions' yet."""

from collections.abc import Iterator

from kappa_core.demand import Claim as ReportedClaim
from kappa_gateway.pods.claim import Claim
from kappa_gateway.pods.platform import Pod
from kappa_gateway.pods.state import FunctionState, PodState
from kappa_gateway.pods.warm.free_pods import FreePod


class ClaimBook:
    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], PodState] = {}

    def open(self, function: FunctionState, free: FreePod, now: float) -> PodState:
        """Claim a free pod for the function. `now`: seconds since the epoch."""
        pod = free.pod
        state = PodState(
            Pod(pod.namespace, pod.name, function.name, pod.host, pod.port, 1, "lambda", created_at=pod.created_at),
            function,
            now,
            endpoint=free.endpoint,
            claim=Claim(pod),
        )
        state.start.addressed = state.start.accepted = now
        self._pods[state.key] = state
        return state

    def get(self, key: tuple[str, str]) -> PodState | None:
        return self._pods.get(key)

    def close(self, pod: PodState) -> None:
        """The claim is settled."""
        if self._pods.get(pod.key) is pod:
            del self._pods[pod.key]

    def __iter__(self) -> Iterator[PodState]:
        return iter(self._pods.values())

    def reported(self) -> tuple[ReportedClaim, ...]:
        """What a full demand report says."""
        found = (state.claim.as_reported(state.function.name) for state in self._pods.values() if state.claim)
        return tuple(claim for claim in found if claim is not None)
