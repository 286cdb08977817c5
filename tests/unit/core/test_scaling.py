from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.demand import FunctionDemand
from kappa_core.scaling import DEFAULT_COLD_START, DEFAULT_DURATION, History, ScalingSpec, decide, needed

SPEC = ScalingSpec(min_replicas=0, max_replicas=10, keep_warm=300, concurrency=1)
IDLE = FunctionDemand("default", "hello")

SPECS = st.builds(
    ScalingSpec,
    min_replicas=st.integers(0, 20),
    max_replicas=st.integers(0, 20),
    keep_warm=st.sampled_from([0, 0.1, 1, 30, 300, 86400]),
    concurrency=st.integers(1, 100),
)
DEMANDS = st.builds(
    FunctionDemand,
    namespace=st.just("default"),
    name=st.just("hello"),
    in_flight=st.integers(0, 200),
    waiting=st.integers(0, 5000),
    mean_duration=st.floats(0, 900),
    cold_start=st.floats(0, 60),
)
# (seconds since the last report, its demand)
TRACES = st.lists(st.tuples(st.sampled_from([0, 0.05, 0.3, 1, 7, 60, 299, 300]), DEMANDS | st.none()), max_size=40)


def demand(in_flight: int = 0, waiting: int = 0, mean: float = 0, cold: float = 0) -> FunctionDemand:
    return replace(IDLE, in_flight=in_flight, waiting=waiting, mean_duration=mean, cold_start=cold)


@pytest.mark.parametrize(
    ("now", "pods"),
    [
        (demand(), 0),
        (demand(in_flight=1), 1),
        (demand(in_flight=3), 3),
        (demand(in_flight=30), 10),  # maxReplicas
        (demand(waiting=1, mean=0.001, cold=0.5), 1),  # a first request needs a pod, however short it is
        (demand(waiting=100, mean=0.005, cold=0.5), 1),  # one pod is through with them before another is up
        (demand(in_flight=1, waiting=100, mean=0.005, cold=0.5), 2),
        (demand(waiting=100, mean=0.02, cold=0.5), 4),
        (demand(waiting=4, mean=60, cold=0.5), 4),  # a slow request takes a pod, not 120 of them
        (demand(waiting=3), 3),  # nothing measured yet: taken for slow
    ],
)
def test_what_a_demand_calls_for(now: FunctionDemand, pods: int) -> None:
    assert needed(now, SPEC) == pods


def test_a_pod_takes_as_many_as_its_concurrency() -> None:
    assert [needed(demand(in_flight=n), replace(SPEC, concurrency=8)) for n in (1, 8, 9, 16, 17)] == [1, 1, 2, 2, 3]


def test_until_something_is_measured_the_guesses_lean_towards_more_pods() -> None:
    assert DEFAULT_DURATION >= DEFAULT_COLD_START


@given(TRACES, SPECS)
def test_replicas_are_the_most_needed_in_the_last_keep_warm_within_bounds(
    trace: list[tuple[float, FunctionDemand | None]], spec: ScalingSpec
) -> None:
    """Held against the rule as one would write it down: with all of the past, and no cleverness."""
    history, past, now = History(), [], 1000.0
    for pause, latest in trace:
        now += pause
        past.append((now, needed(latest, spec) if latest else 0))
        recent = max([past[-1][1], *(count for when, count in past if when + spec.keep_warm > now)])
        expected = min(spec.max_replicas, max(spec.min_replicas, recent))
        assert decide(now, latest, history, spec) == expected
        assert decide(now, latest, history, spec) == expected, "twice at one moment"
        assert len(history.peaks) <= spec.max_replicas + 1


@given(DEMANDS, SPECS, st.integers(0, 50), st.integers(0, 500))
def test_more_demand_never_calls_for_fewer_pods(
    now: FunctionDemand, spec: ScalingSpec, in_flight: int, waiting: int
) -> None:
    more = replace(now, in_flight=now.in_flight + in_flight, waiting=now.waiting + waiting)
    assert needed(more, spec) >= needed(now, spec)


@given(DEMANDS, SPECS)
def test_a_pod_that_takes_more_never_calls_for_more_pods(now: FunctionDemand, spec: ScalingSpec) -> None:
    assert needed(now, replace(spec, concurrency=spec.concurrency + 1)) <= needed(now, spec)


@given(DEMANDS.filter(lambda d: d.in_flight or d.waiting), SPECS)
def test_whoever_waits_gets_a_pod_unless_max_replicas_is_zero(now: FunctionDemand, spec: ScalingSpec) -> None:
    assert (decide(0, now, History(), spec) > 0) == (spec.max_replicas > 0)


@given(DEMANDS, SPECS, st.integers(2, 30))
def test_steady_load_keeps_the_replicas_steady(now: FunctionDemand, spec: ScalingSpec, seconds: int) -> None:
    history = History()
    assert len({decide(second, now, history, spec) for second in range(seconds)}) == 1


@given(st.lists(st.integers(0, 10), min_size=1, max_size=60))
def test_load_that_flutters_faster_than_keep_warm_never_takes_a_pod_away(load: list[int]) -> None:
    history = History()
    replicas = [decide(second, demand(in_flight=count), history, SPEC) for second, count in enumerate(load)]
    assert replicas == sorted(replicas)


def test_zero_comes_exactly_when_keep_warm_is_over() -> None:
    history = History()
    assert decide(100, demand(in_flight=4), history, SPEC) == 4
    assert decide(101, None, history, SPEC) == 4
    assert decide(399.999, None, history, SPEC) == 4
    assert decide(400, None, history, SPEC) == 0


def test_a_big_peak_leaves_before_a_smaller_later_one() -> None:
    history = History()
    decide(0, demand(in_flight=5), history, SPEC)
    decide(200, demand(in_flight=2), history, SPEC)
    assert [decide(now, None, history, SPEC) for now in (299, 300, 499, 500)] == [5, 2, 2, 0]


@given(st.floats(0, 1e9), st.sampled_from([0.1, 0.3, 1, 7, 300, 86400]))
def test_the_pod_is_released_at_the_very_end_of_keep_warm(start: float, keep_warm: float) -> None:
    """No rounding of clock readings may keep it longer."""
    spec, history = replace(SPEC, keep_warm=keep_warm), History()
    decide(start, demand(in_flight=1), history, spec)
    assert decide(start + keep_warm, None, history, spec) == 0


def test_keep_warm_of_zero_takes_a_pod_at_once_but_not_from_under_work() -> None:
    spec, history = replace(SPEC, keep_warm=0), History()
    assert [decide(0, demand(in_flight=n) if n else None, history, spec) for n in (3, 1, 0, 2)] == [3, 1, 0, 2]


def test_changed_bounds_count_at_once() -> None:
    history = History()
    assert decide(0, demand(in_flight=8), history, SPEC) == 8
    assert decide(1, None, history, replace(SPEC, max_replicas=3)) == 3
    assert decide(2, None, history, replace(SPEC, max_replicas=0)) == 0
    assert decide(3, None, history, replace(SPEC, min_replicas=9)) == 9
    assert decide(1000, None, history, replace(SPEC, min_replicas=2)) == 2


def test_a_long_life_leaves_no_long_history() -> None:
    history = History()
    for second in range(20_000):
        decide(second, demand(in_flight=second % 7), history, SPEC)
    assert len(history.peaks) <= SPEC.max_replicas + 1
