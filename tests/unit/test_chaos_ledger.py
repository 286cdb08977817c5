"""The judgement over the chaos tests: what it takes, and above all what it does not."""

from dataclasses import replace

import pytest
from chaos import (
    GATEWAY,
    OPERATOR,
    POD,
    QUEUE,
    Kill,
    Ledger,
    Outcome,
    PlannedEvent,
    PlannedKill,
    Rules,
    Run,
    Submission,
    Verdict,
    Why,
    judge,
    planned_events,
    planned_kills,
)

RULES = Rules(max_attempts=3, web_servers=frozenset({"web"}))
FIRST = Run("r1", "id", "work", "pod-a", 10.0, 11.0, True)
AGAIN = Run("r2", "id", "work", "pod-b", 20.0, 21.0, True)


def event(*ids: str, key: str = "k", function: str = "work") -> Submission:
    return Submission(PlannedEvent(key, function, 0, None), list(ids), [], [9.0] * len(ids))


def verdict(*runs: Run, kills: tuple[Kill, ...] = (), outcome: Outcome | None = None) -> Verdict:
    """Of one event with these runs, which succeeded after all unless something else is said."""
    if outcome is None:
        outcome = Outcome("succeeded", 1, False)
    return judge(Ledger([event("id")], list(runs), list(kills), {"id": outcome}), RULES)


def kill(at: float, what: str = POD, *pods: str, linger: float = 0.2) -> Kill:
    return Kill(at, what, "it", frozenset(pods), linger)


# -- how events end


def test_an_event_that_ran_once_and_succeeded_is_fine() -> None:
    said = verdict(FIRST)
    assert (said.problems, said.duplicates, said.figures["events"]) == ([], [], 1)


def test_a_failed_event_has_failed_as_often_as_it_may_and_is_in_the_dead_letter() -> None:
    failed = [replace(FIRST, id=f"r{n}", start=n * 10.0, end=n * 10.0 + 1, ok=False) for n in range(3)]
    said = verdict(*failed, outcome=Outcome("failed", 3, True))
    assert (said.problems, said.duplicates, said.why) == ([], [], {Why.FAILED: 2})
    (problem,) = verdict(*failed, outcome=Outcome("failed", 3, False)).problems
    assert "not in the dead letter" in problem
    (problem,) = verdict(*failed[:2], outcome=Outcome("failed", 2, True)).problems
    assert "failed after 2 failures" in problem


def test_an_event_that_nothing_is_known_of_is_lost() -> None:
    (problem,) = judge(Ledger([event("id")]), RULES).problems
    assert "lost" in problem


@pytest.mark.parametrize("status", ["queued", "running", "retrying", "expired"])
def test_an_event_that_does_not_end_is_a_problem(status: str) -> None:
    assert verdict(FIRST, outcome=Outcome(status, 0, False)).problems


def test_a_success_that_no_run_had_is_a_problem() -> None:
    for run in (replace(FIRST, ok=False), replace(FIRST, end=None, ok=None)):
        (problem,) = verdict(run).problems
        assert "no run of it succeeded" in problem


def test_a_success_in_the_dead_letter_is_a_problem() -> None:
    assert verdict(FIRST, outcome=Outcome("succeeded", 1, True)).problems


def test_more_attempts_than_runs_are_a_problem() -> None:
    assert verdict(FIRST, outcome=Outcome("succeeded", 2, False)).problems


# -- submissions


def test_a_submission_that_was_never_accepted_is_a_problem() -> None:
    submission = Submission(PlannedEvent("k", "work", 0, None), [], ["503"])
    (problem,) = judge(Ledger([submission]), RULES).problems
    assert "never accepted" in problem


@pytest.mark.parametrize(
    ("said", "fine"), [("503 away", True), ("429 full", True), ("TimeoutError()", True), ("404", False)]
)
def test_a_client_is_told_to_try_again_or_it_is_a_problem(said: str, fine: bool) -> None:
    submission = event("id")
    submission.refusals.append(said)
    outcome = Outcome("succeeded", 1, False)
    assert (judge(Ledger([submission], [FIRST], [], {"id": outcome}), RULES).problems == []) == fine


def test_one_key_is_one_event() -> None:
    outcomes = {name: Outcome("succeeded", 1, False) for name in ("id", "other")}
    runs = [FIRST, replace(FIRST, id="r2", request_id="other")]
    assert judge(Ledger([event("id", "id")], [FIRST], [], outcomes), RULES).problems == []
    (problem,) = judge(Ledger([event("id", "other")], runs, [], outcomes), RULES).problems
    assert "became 2 events" in problem
    (problem,) = judge(Ledger([event("id"), event("id", key="l")], [FIRST], [], outcomes), RULES).problems
    assert "2 submissions became the event id" in problem


def test_a_run_of_an_event_that_nobody_knows_is_a_problem() -> None:
    (problem,) = judge(Ledger([], [FIRST]), RULES).problems
    assert "no client was given its id" in problem


# -- runs beyond the first


def test_a_second_run_without_a_reason_is_a_problem() -> None:
    (problem,) = verdict(FIRST, AGAIN).problems
    assert "nothing explains it" in problem
    assert "pod-a" in problem
    assert verdict(replace(FIRST, end=None, ok=None), AGAIN).problems


def test_a_report_that_came_twice_is_one_run() -> None:
    said = verdict(FIRST, FIRST)
    assert (said.problems, said.figures["runs"]) == ([], 1)
    assert verdict(FIRST, replace(FIRST, end=None, ok=None)).problems == []
    assert verdict(replace(FIRST, end=None, ok=None), FIRST).problems == []


def test_a_retry_after_a_failure_is_no_duplicate() -> None:
    said = verdict(replace(FIRST, ok=False), AGAIN)
    assert (said.problems, said.duplicates, said.why) == ([], [], {Why.FAILED: 1})


@pytest.mark.parametrize(
    ("end", "killed", "why"),
    [
        (None, 10.5, Why.POD_KILLED),
        (11.0, 10.5, Why.POD_KILLED),  # it went on for a while, and even ended
        (11.0, 11.5, Why.ANSWER_KILLED),
        (11.0, 15.0, None),  # its answer had been seen to long before
        (None, 9.0, None),
        (None, 20.5, None),  # the next run was there first
    ],
)
def test_the_death_of_its_pod_explains_a_second_run_at_the_right_time(
    end: float | None, killed: float, why: Why | None
) -> None:
    run = replace(FIRST, end=end, ok=None if end is None else True)
    said = verdict(run, AGAIN, kills=(kill(killed, POD, "pod-a"),))
    assert dict(said.why) == ({why: 1} if why else {})
    assert bool(said.problems) == (why is None)
    assert len(said.duplicates) == (why is not None)
    assert verdict(run, AGAIN, kills=(kill(killed, POD, "pod-b"),)).problems, "it was another pod"


def test_a_pod_that_lingers_may_run_what_came_after_its_deletion() -> None:
    run = replace(FIRST, end=None, ok=None)
    assert verdict(run, AGAIN, kills=(kill(9.0, POD, "pod-a", linger=2.0),)).problems == []
    assert verdict(run, AGAIN, kills=(kill(7.0, POD, "pod-a", linger=2.0),)).problems


@pytest.mark.parametrize(("what", "explained"), [(GATEWAY, True), (QUEUE, True), (OPERATOR, False)])
def test_an_answer_waits_in_its_pod_while_who_sees_to_it_is_dead(what: str, explained: bool) -> None:
    said = verdict(FIRST, AGAIN, kills=(kill(10.5, what), kill(15.0, POD, "pod-a")))
    assert bool(said.problems) != explained


def test_the_death_of_a_gateway_alone_explains_nothing_but_for_web_servers() -> None:
    assert verdict(FIRST, AGAIN, kills=(kill(10.5, GATEWAY),)).problems
    web = (replace(FIRST, function="web"), replace(AGAIN, function="web"))
    said = verdict(*web, kills=(kill(10.5, GATEWAY),))
    assert (said.problems, dict(said.why)) == ([], {Why.WEB_SERVER: 1})
    assert verdict(*web, kills=(kill(13.0, GATEWAY),)).problems
    assert verdict(*web, kills=(kill(10.5, OPERATOR),)).problems


def test_a_gateway_that_takes_its_pods_along_explains_as_they_do() -> None:
    local = Kill(10.5, GATEWAY, "it", None)
    assert dict(verdict(FIRST, AGAIN, kills=(local,)).why) == {Why.POD_KILLED: 1}
    assert verdict(FIRST, AGAIN, kills=(replace(local, at=9.0),)).problems


def test_each_run_but_the_last_needs_its_own_explanation() -> None:
    third = replace(AGAIN, id="r3", pod="pod-c", start=30.0, end=31.0)
    (problem,) = verdict(FIRST, AGAIN, third, kills=(kill(10.5, POD, "pod-a"),)).problems
    assert "pod-b" in problem


# -- plans


def test_a_seed_makes_the_same_plan_again() -> None:
    shares, failing = {"fast": 0.8, "slow": 0.2}, {"fast": 0.5}
    plan = planned_events(1, 300, shares, failing=failing, max_attempts=3)
    assert plan == planned_events(1, 300, shares, failing=failing, max_attempts=3)
    assert plan != planned_events(2, 300, shares, failing=failing, max_attempts=3)
    assert len({one.key for one in plan}) == 300
    assert {one.fails for one in plan if one.function == "fast"} == {0, 1, 2, 3}
    assert {one.fails for one in plan if one.function == "slow"} == {0}
    assert 10 <= sum(one.again_after is not None for one in plan) <= 60
    assert planned_kills(1, 60, {"a": 5}) == [k for k in planned_kills(1, 60, {"a": 5, "b": 7}) if k.what == "a"]


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_is_killed_at_least_once_and_in_time(seed: int) -> None:
    kills = planned_kills(seed, 10, {"often": 1, "rarely": 1000})
    assert {one.what for one in kills} == {"often", "rarely"}
    assert all(0 < one.at < 10 for one in kills)
    assert kills == sorted(kills, key=lambda one: one.at)
    assert 6 <= sum(one.what == "often" for one in kills) <= 20


def test_a_kill_hits_one_of_those_that_live() -> None:
    planned = PlannedKill(1.0, POD, 0.99, False)
    assert (planned.among(["a", "b"]), planned.among(["b", "a"]), planned.among([])) == ("b", "b", None)


def test_the_report_says_what_happened() -> None:
    text = str(verdict(FIRST, AGAIN, kills=(kill(10.5, POD, "pod-a"),)))
    assert "events: 1" in text
    assert f"run again because {Why.POD_KILLED}: 1" in text
    assert "PROBLEM" not in text
    assert "PROBLEM: " in str(verdict(FIRST, AGAIN))
