"""A Function's status: a pure derivation from what is observed and from the previous status.

`Ready` answers "can it be invoked?", `CodeAvailable` "does its code load?", `Progressing` "is a change on its way to
the pods?". A failure that a pod showed stays in the status after the pod is gone, until a newer observation replaces
it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from kappa_core.function import ColdStart, Condition, FunctionStatus
from kappa_core.observed import DeploymentFacts, PodFacts, Problem
from kappa_core.reasons import BLOCKING, ConditionType, Reason

MESSAGE_LIMIT: Final = 2000
"""Characters. A metav1.Condition may have 32,768, but people do not read so many."""

_CODE_REASONS: Final = frozenset(
    {
        Reason.UNKNOWN_RUNTIME,
        Reason.CONFIG_MAP_NOT_FOUND,
        Reason.IMAGE_PULL_FAILED,
        Reason.CODE_UNREADABLE,
        Reason.INIT_FAILED,
    }
)
_SEEN_IN_PODS: Final = frozenset(
    {
        Reason.CONFIG_MISSING,
        Reason.IMAGE_PULL_FAILED,
        Reason.CODE_UNREADABLE,
        Reason.POD_REJECTED,
        Reason.UNSCHEDULABLE,
        Reason.NOT_LISTENING,
        Reason.CRASHING,
    }
)
COLD_START: Final = ColdStart(path="Deployment", reason="A cold start scales up the Function's own Deployment.")


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that is known about a Function in the cluster at one moment."""

    generation: int
    revision: str = ""
    """The revision that the Function asks for now; empty if no pod template can be made."""
    problem: Problem | None = None
    """Why no pod can be made at all: a bad spec, a missing ConfigMap, a Deployment that belongs to somebody else."""
    deployment: DeploymentFacts | None = None
    pods: Collection[PodFacts] = ()
    init_failures: Mapping[str, Problem] = field(default_factory=dict)
    """Pod uid → its agent's message about code that did not load."""
    url: str | None = None
    cold_start: ColdStart = COLD_START


def derive(observation: Observation, previous: FunctionStatus, now: str) -> FunctionStatus:
    """The status to write. `now` is RFC 3339. A condition's lastTransitionTime changes only with its status."""
    live = [pod for pod in observation.pods if not pod.terminating]
    current = _current(observation)
    ready = any(pod.ready for pod in current)
    started = ready or any(_init_failure(observation, pod) for pod in current)
    verified = observation.revision if started and observation.revision else previous.verified_revision
    problem = find_problem(observation, previous)
    known = bool(observation.revision) and verified == observation.revision
    conditions = [
        _ready(observation, problem, live),
        _code_available(problem, known),
        _progressing(observation),
    ]
    deployment = observation.deployment
    return FunctionStatus(
        observed_generation=observation.generation,
        conditions=[_stamp(condition, observation.generation, previous, now) for condition in conditions],
        replicas=deployment.total if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        url=observation.url,
        cold_start=observation.cold_start,
        verified_revision=verified,
    )


def find_problem(observation: Observation, previous: FunctionStatus) -> Problem | None:
    """Why the Function cannot run. In this order: a problem before any pod, one of this revision's pods, a remembered
    one."""
    if observation.problem:
        return observation.problem
    if any(pod.ready for pod in _current(observation)):
        return None
    return seen_problem(observation) or _remembered(observation, previous)


def seen_problem(observation: Observation) -> Problem | None:
    """What this revision's pods, or the cluster that refuses them, show now; None while one of the pods is ready."""
    current = _current(observation)
    if any(pod.ready for pod in current):
        return None
    seen = [pod.problem for pod in current if pod.problem]
    seen += [failure for pod in current if (failure := observation.init_failures.get(pod.uid))]
    if seen:
        return min(seen, key=lambda problem: (problem.reason not in BLOCKING, problem.reason, problem.message))
    deployment = observation.deployment
    if deployment and deployment.rejection and deployment.total < deployment.replicas:
        return Problem(
            Reason.POD_REJECTED,
            f"the cluster refuses the pods: {deployment.rejection}."
            " Change the Function, or the quota or policy that refuses it.",
        )
    return None


def _current(observation: Observation) -> list[PodFacts]:
    return [pod for pod in observation.pods if pod.revision == observation.revision and not pod.terminating]


def _remembered(observation: Observation, previous: FunctionStatus) -> Problem | None:
    before = _condition(previous, ConditionType.READY)
    if before is None or before.status != "False" or before.observed_generation != observation.generation:
        return None
    started = previous.verified_revision == observation.revision
    if (before.reason == Reason.INIT_FAILED and started) or (before.reason in _SEEN_IN_PODS and not started):
        return Problem(Reason(before.reason), before.message.removesuffix(_STILL_SERVED))
    return None


def material(old: FunctionStatus, new: FunctionStatus) -> bool:
    """Whether the change must be written at once. Pod counts, and which reason a `True` has, can wait a moment."""
    return _essence(old) != _essence(new)


def _essence(status: FunctionStatus) -> object:
    return (
        status.observed_generation,
        status.url,
        status.cold_start,
        status.verified_revision,
        [
            (c.type, c.status) if c.status == "True" else (c.type, c.status, c.reason, c.message)
            for c in status.conditions
            if c.type != ConditionType.PROGRESSING
        ],
    )


@dataclass(frozen=True, slots=True)
class _Draft:
    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str


_STILL_SERVED: Final = " Pods of an earlier revision still serve."


def _ready(observation: Observation, problem: Problem | None, live: list[PodFacts]) -> _Draft:
    serving = any(pod.ready for pod in live)
    if problem:
        message = problem.message[:MESSAGE_LIMIT] + (_STILL_SERVED if serving else "")
        return _Draft(ConditionType.READY, "False", problem.reason, message)
    if serving:
        return _Draft(ConditionType.READY, "True", Reason.RUNNING, "Pods are running.")
    if observation.deployment and observation.deployment.replicas:
        return _Draft(ConditionType.READY, "True", Reason.STARTING, "Pods are starting.")
    return _Draft(ConditionType.READY, "True", Reason.DEPLOYED, "No pod is running; the next invocation starts one.")


def _code_available(problem: Problem | None, known: bool) -> _Draft:
    if problem and problem.reason in _CODE_REASONS:
        return _Draft(ConditionType.CODE_AVAILABLE, "False", problem.reason, problem.message[:MESSAGE_LIMIT])
    if known:
        return _Draft(
            ConditionType.CODE_AVAILABLE, "True", Reason.CODE_LOADED, "The code loads: a pod of it has started."
        )
    return _Draft(
        ConditionType.CODE_AVAILABLE, "Unknown", Reason.NOT_STARTED_YET, "No pod of this code has started yet."
    )


def _progressing(observation: Observation) -> _Draft:
    deployment = observation.deployment
    if deployment and deployment.replicas and observation.revision:
        behind = deployment.observed_generation < deployment.generation or deployment.revision != observation.revision
        if (deployment.total and deployment.updated < deployment.total) or (behind and deployment.total):
            message = f"{deployment.updated} of {deployment.replicas} pods have the newest spec."
            return _Draft(ConditionType.PROGRESSING, "True", Reason.ROLLING_OUT, message)
    return _Draft(ConditionType.PROGRESSING, "False", Reason.ROLLED_OUT, "Every pod has the newest spec.")


def _init_failure(observation: Observation, pod: PodFacts) -> bool:
    """Whether the pod started and only its code failed to load. The pod template itself works then."""
    failure = observation.init_failures.get(pod.uid)
    return failure is not None and failure.reason == Reason.INIT_FAILED


def _condition(status: FunctionStatus, condition_type: str) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == condition_type), None)


def _stamp(draft: _Draft, generation: int, previous: FunctionStatus, now: str) -> Condition:
    before = _condition(previous, draft.type)
    since = before.last_transition_time if before is not None and before.status == draft.status else now
    return Condition(
        type=draft.type,
        status=draft.status,
        observed_generation=generation,
        last_transition_time=since,
        reason=draft.reason,
        message=draft.message,
    )
