"""The chaos tests' logic, without I/O: the plan of what is sent and killed when (from a seed), the ledger of what
happened, and the verdict.

The verdict checks what users rely on. Every event that was answered 202 either ends in `succeeded`, after a complete
run, or in the dead letter, after as many failures as its function may have. And every run beyond an event's first must
be explained by the ledger: the function failed, or its pod was killed. A run without an explanation fails the test.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

SUCCEEDED = "succeeded"
GATEWAY = "gateway"
QUEUE = "queue"
OPERATOR = "operator"
POD = "pod"
"""A function's pod."""

# -- what is to happen


@dataclass(frozen=True)
class PlannedEvent:
    key: str
    """Its idempotency key."""
    function: str
    fails: int
    """So many of its runs end with the function's own error, then one succeeds."""
    again_after: float | None
    """Its client sends it again so many seconds after the answer, as a client does that lost the answer."""


def planned_events(
    seed: int, count: int, shares: Mapping[str, float], *, failing: Mapping[str, float], max_attempts: int
) -> list[PlannedEvent]:
    """`count` events over functions by weight. `failing` gives the chance that an event of a function fails at all; how
    often, up to once more than it may, is drawn as well."""
    draw = random.Random(f"{seed}/events")
    names = list(shares)
    events = []
    for number in range(count):
        function = draw.choices(names, [shares[name] for name in names])[0]
        fails = draw.randint(1, max_attempts) if draw.random() < failing.get(function, 0) else 0
        again = draw.uniform(0, 10) if draw.random() < 0.1 else None
        events.append(PlannedEvent(f"{seed}-{number}", function, fails, again))
    return events


@dataclass(frozen=True)
class PlannedKill:
    at: float
    """Seconds from the beginning."""
    what: str
    pick: float
    """Which of those that live then: a share of the list, 0 to 1."""
    hard: bool
    """One of two ways to be killed, where there are two."""

    def among(self, living: Sequence[str]) -> str | None:
        """The one that it hits; None where none lives."""
        ordered = sorted(living)
        return ordered[int(self.pick * len(ordered))] if ordered else None


def planned_kills(seed: int, seconds: float, every: Mapping[str, float]) -> list[PlannedKill]:
    """The kills, ordered by time. `every` gives the mean seconds between two of a kind; each kind is killed at least
    once.

    Each kind has its own random numbers, so that adding or removing a kind does not change the others.
    """
    kills = []
    for what, mean in every.items():
        draw = random.Random(f"{seed}/{what}")
        at = min(draw.uniform(0.5, 1.5) * mean, draw.uniform(0.2, 0.8) * seconds)
        while at < seconds:
            kills.append(PlannedKill(at, what, draw.random(), draw.random() < 0.5))
            at += draw.uniform(0.5, 1.5) * mean
    return sorted(kills, key=lambda kill: kill.at)


# -- what was seen


@dataclass
class Submission:
    """An event as its client sees it. Times are seconds since the epoch."""

    planned: PlannedEvent
    request_ids: list[str] = field(default_factory=list)
    """Of each 202."""
    refusals: list[str] = field(default_factory=list)
    """For each other try, what came instead: the status and the body, or the connection's error."""
    accepted_at: list[float] = field(default_factory=list)
    """When each 202 came."""


@dataclass(frozen=True)
class Run:
    """One run as the function itself recorded it."""

    id: str
    """Unique to this run, so that a report that arrives twice counts once."""
    request_id: str
    function: str
    pod: str
    start: float
    end: float | None
    """None: nothing more was heard of it."""
    ok: bool | None
    """How it ended."""


@dataclass(frozen=True)
class Kill:
    at: float
    """Just before it was done."""
    what: str
    name: str
    ends: frozenset[str] | None = frozenset()
    """The function pods that end with it; None: all that there are."""
    linger: float = 0.2
    """Seconds from `at` to the end of the last process: after a forced deletion, the kubelet is the last to learn of
    it."""


@dataclass(frozen=True)
class Outcome:
    """What the gateway says of an event in the end."""

    status: str
    attempts: int
    dead: bool
    """It is in the dead letter."""


@dataclass
class Ledger:
    submissions: list[Submission] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By request id."""


# -- the judgement


class Why(StrEnum):
    """Why an event ran once more."""

    FAILED = "the function failed, and was retried"
    POD_KILLED = "its pod was killed while it ran"
    ANSWER_KILLED = "its pod was killed before its answer was handled"
    WEB_SERVER = "a gateway was killed while a web server ran it, which keeps no answers"


@dataclass(frozen=True)
class Rules:
    max_attempts: int
    answer: float = 1.0
    """Seconds in which a live gateway handles an answer."""
    web_servers: frozenset[str] = frozenset()
    """Functions without an agent, whose answers nobody keeps."""


@dataclass
class Verdict:
    problems: list[str]
    duplicates: list[str]
    """One line for each run beyond an event's first that was not a retry after a function error."""
    why: Counter[Why]
    figures: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.figures.items()]
        lines += [f"run again because {why}: {self.why[why]}" for why in Why if self.why[why]]
        shown = self.problems[:20]
        lines += [f"PROBLEM: {problem}" for problem in shown]
        if len(self.problems) > len(shown):
            lines.append(f"… and {len(self.problems) - len(shown)} problems more")
        return "\n".join(lines)


def judge(ledger: Ledger, rules: Rules) -> Verdict:
    runs: dict[str, list[Run]] = {}
    for run in {run.id: run for run in sorted(ledger.runs, key=lambda run: run.end is not None)}.values():
        runs.setdefault(run.request_id, []).append(run)
    for of_event in runs.values():
        of_event.sort(key=lambda run: run.start)
    verdict = Verdict([], [], Counter(), {})
    ids: Counter[str] = Counter()
    accepted = {each: one.accepted_at for one in ledger.submissions for each in one.request_ids}
    for submission in ledger.submissions:
        name = f"event {submission.planned.key} of {submission.planned.function}"
        distinct = sorted(set(submission.request_ids))
        ids.update(distinct)
        wrong = [said for said in submission.refusals if said.startswith("4") and not said.startswith("429")]
        if wrong:
            verdict.problems.append(f"{name} was refused permanently: {wrong[:3]}")
        if not distinct:
            verdict.problems.append(f"{name} was never accepted: {submission.refusals[-3:]}")
        if len(distinct) > 1:
            verdict.problems.append(f"{name} became {len(distinct)} events: {', '.join(distinct)}")
        for request_id in distinct:
            problem = _ending(ledger.outcomes.get(request_id), runs.get(request_id, []), rules)
            if problem:
                verdict.problems.append(f"{name} ({request_id}): {problem}")
    verdict.problems += [f"{count} submissions became the event {each}" for each, count in ids.items() if count > 1]
    verdict.problems += [f"{each} ran, but no client was given its id" for each in runs.keys() - ids.keys()]
    for of_event in runs.values():
        for run, following in itertools.pairwise(of_event):
            if not _explain(run, following, ledger.kills, rules, verdict):
                times = ", ".join(f"{at:.3f}" for at in accepted.get(run.request_id, []))
                verdict.problems[-1] += f"; it was accepted at {times}"
    verdict.figures = _figures(ledger, runs)
    return verdict


def _ending(outcome: Outcome | None, runs: Sequence[Run], rules: Rules) -> str | None:
    """What is wrong with how an event ended."""
    failures = sum(run.ok is False for run in runs)
    if outcome is None:
        return f"lost: nothing is known of it, and it ran {len(runs)} times"
    if outcome.attempts > len(runs):
        return f"{outcome.attempts} attempts are reported, but it ran {len(runs)} times"
    if outcome.status == SUCCEEDED:
        if not any(run.ok for run in runs):
            return f"is reported as succeeded, but no run of it succeeded: {len(runs)} runs, {failures} failed"
        return "it is in the dead letter, though it succeeded" if outcome.dead else None
    if not outcome.dead:
        return f"{outcome.status}, but not in the dead letter: {len(runs)} runs"
    if failures < rules.max_attempts:
        return f"{outcome.status} after {failures} failures, {len(runs)} runs"
    return None


def _explain(run: Run, following: Run, kills: Sequence[Kill], rules: Rules, verdict: Verdict) -> bool:
    """Whether the run that followed this one can be explained."""
    why = _why(run, following, kills, rules)
    line = (
        f"{run.request_id} of {run.function} ran in {run.pod} from {run.start:.3f} to {_time(run.end)}, "
        f"and again in {following.pod} at {following.start:.3f}"
    )
    if why is None:
        near = [f"{kill.what} {kill.name} at {kill.at:.3f}" for kill in kills if -10 < kill.at - run.start < 30]
        verdict.problems.append(f"{line}, and nothing explains it; killed around then: {', '.join(near) or 'nothing'}")
        return False
    verdict.why[why] += 1
    if why is not Why.FAILED:
        verdict.duplicates.append(f"{line}: {why}")
    return True


def _why(run: Run, following: Run, kills: Iterable[Kill], rules: Rules) -> Why | None:
    if run.ok is False:
        return Why.FAILED
    since = [kill for kill in kills if run.start - kill.linger <= kill.at <= following.start]
    ends = [kill.at for kill in since if kill.ends is None or run.pod in kill.ends]
    if ends and (run.end is None or min(ends) <= run.end):
        return Why.POD_KILLED
    if run.end is None:
        return None
    # An answer is handled at once. It waits in the pod only if the gateway that had to handle it, or the queue, was
    # killed.
    takers = [kill.at for kill in since if kill.what in (GATEWAY, QUEUE)]
    if ends and (min(ends) <= run.end + rules.answer or takers):
        return Why.ANSWER_KILLED
    if run.function in rules.web_servers and takers and min(takers) <= run.end + rules.answer:
        return Why.WEB_SERVER
    return None


def _figures(ledger: Ledger, runs: Mapping[str, Sequence[Run]]) -> dict[str, int]:
    outcomes = Counter(outcome.status for outcome in ledger.outcomes.values())
    kills = Counter(kill.what for kill in ledger.kills)
    return {
        "events": len(ledger.submissions),
        "submissions that were refused or got no answer": sum(len(each.refusals) for each in ledger.submissions),
        "submissions beyond an event's first 202": sum(max(0, len(s.request_ids) - 1) for s in ledger.submissions),
        "runs": sum(map(len, runs.values())),
        **{f"kills of {what}": count for what, count in sorted(kills.items())},
        **dict(sorted(outcomes.items())),
        "in the dead letter": sum(outcome.dead for outcome in ledger.outcomes.values()),
    }


def _time(at: float | None) -> str:
    return "an end that nobody heard of" if at is None else f"{at:.3f}"
