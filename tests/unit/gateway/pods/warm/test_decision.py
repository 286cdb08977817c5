"""How many pool pods are claimed: the rule over all inputs, and the burst that other pool managers get wrong."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.demand import FunctionDemand
from kappa_core.metrics import ColdStartReason
from kappa_core.scaling import ScalingSpec, needed
from kappa_gateway.pods.warm.decision import DOUBLING, Situation, decide

counts = st.integers(0, 300)
seconds = st.one_of(st.just(0.0), st.floats(0.0005, 30.0))


@st.composite
def situations(draw):
    return Situation(
        waiting=draw(counts),
        in_flight=draw(counts),
        max_replicas=draw(st.integers(0, 300)),
        concurrency=draw(st.integers(1, 4)),
        mean_duration=draw(seconds),
        running=draw(seconds),
        cold_start=draw(seconds),
        pods=draw(st.integers(0, 40)),
        begun=draw(st.integers(0, 5)),
        free=draw(st.integers(0, 50)),
    )


@given(situations())
def test_claims_stay_within_what_is_free_what_waits_and_max_replicas(now):
    decision = decide(now)
    assert 0 <= decision.claims <= min(now.free, now.waiting)
    known = now.pods + now.begun
    assert known + decision.claims <= max(now.max_replicas, known)
    assert decision.look_again is None or decision.look_again > 0


@given(situations())
def test_no_more_pods_than_the_scalers_rule_calls_for(now):
    decision = decide(now)
    demand = FunctionDemand(
        "default",
        "f",
        in_flight=now.in_flight,
        waiting=now.waiting,
        mean_duration=now.mean_duration,
        cold_start=now.cold_start,
    )
    spec = ScalingSpec(0, now.max_replicas, 300.0, now.concurrency)
    if decision.claims and now.mean_duration:
        assert now.pods + decision.claims <= needed(demand, spec)


@given(situations())
def test_what_was_claimed_is_not_claimed_again(now):
    """Each claim gives its pod to a request that waited: asking again at once gives nothing."""
    claims = decide(now).claims
    after = Situation(
        **{
            **{name: getattr(now, name) for name in now.__slots__},
            "waiting": now.waiting - claims,
            "in_flight": now.in_flight + claims,
            "pods": now.pods + claims,
            "free": now.free - claims,
        }
    )
    if now.mean_duration or now.in_flight:
        assert decide(after).claims == 0


def burst(requests, duration, *, cold_start=0.4, pool_cold_start=0.01, free=200, most=200, interval=0.0001):
    """Requests that come one after the other to one cold function: how many pods are claimed until all have ended."""
    now, waiting, pods = 0.0, 0, []
    """`pods`: when each one's request ends, or None while it has none."""
    mean, ended, arrived, began, claimed = 0.0, 0, 0, None, 0
    while ended < requests:
        while arrived < requests and arrived * interval <= now:
            arrived, waiting = arrived + 1, waiting + 1
        for at, end in enumerate(pods):
            if end is not None and end <= now:
                pods[at], ended, mean = None, ended + 1, duration
        for at, end in enumerate(pods):
            if end is None and waiting:
                pods[at], waiting = now + duration, waiting - 1
        decision = decide(
            Situation(
                waiting=waiting,
                in_flight=sum(end is not None for end in pods),
                max_replicas=most,
                mean_duration=mean,
                running=now - began if began is not None else 0.0,
                cold_start=cold_start,
                pods=len(pods),
                free=free - claimed,
            )
        )
        for _ in range(decision.claims):
            pods.append(now + pool_cold_start + duration)
            waiting, claimed, began = waiting - 1, claimed + 1, began if began is not None else now
        now += interval
    return claimed


@pytest.mark.parametrize("duration", [0.001, 0.002, 0.005])
def test_a_burst_of_200_short_requests_claims_as_many_pods_as_the_rule_says_and_not_200(duration):
    """fission#3559: 88 pods were specialized for one function."""
    assert 1 <= burst(200, duration) <= math.ceil(200 * duration / 0.4) <= 3


def test_slow_imports_do_not_make_a_burst_of_short_requests_take_a_pod_each():
    assert burst(200, 0.005, pool_cold_start=0.19) <= 8


def test_a_burst_of_requests_that_take_long_gets_a_pod_for_each():
    assert burst(40, 2.0) == 40


def test_a_burst_stays_within_max_replicas():
    assert burst(40, 2.0, most=7) == 7


def test_before_the_first_answer_the_number_doubles_every_50_ms():
    def wanted(running):
        decision = decide(Situation(waiting=100, in_flight=1, max_replicas=200, running=running, pods=0, free=200))
        return decision.claims

    step = DOUBLING
    assert [wanted(step * count) for count in (0, 0.5, 1, 1.5, 2, 3, 10)] == [1, 1, 2, 2, 4, 8, 100]


def test_the_decision_says_when_to_look_again():
    decision = decide(Situation(waiting=3, in_flight=1, max_replicas=10, running=0.04, pods=1, free=5))
    assert decision.claims == 0
    assert decision.look_again == pytest.approx(DOUBLING - 0.04)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"free": 0}, ColdStartReason.POOL_EMPTY),
        ({"pods": 1}, ColdStartReason.STARTING),
        ({"max_replicas": 0}, ColdStartReason.STARTING),
        ({"max_replicas": 1, "begun": 1}, ColdStartReason.STARTING),
    ],
)
def test_why_a_request_got_no_pool_pod(change, reason):
    decision = decide(Situation(**{"waiting": 1, "in_flight": 0, "max_replicas": 10, "free": 1, **change}))
    assert (decision.claims, decision.reason) == (0, reason)


def test_one_request_to_a_cold_function_claims_one():
    assert decide(Situation(waiting=1, in_flight=0, max_replicas=10, free=3)).claims == 1


def test_a_pod_that_the_deployment_has_begun_saves_no_claim_but_counts_towards_max_replicas():
    """A claimed pod serves sooner, and takes the begun one's place once it is adopted."""
    assert decide(Situation(waiting=1, in_flight=0, max_replicas=2, begun=1, free=3)).claims == 1
    assert decide(Situation(waiting=1, in_flight=0, max_replicas=1, begun=1, free=3)).claims == 0
