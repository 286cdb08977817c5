"""How many pool pods are claimed: the rule over all inputs, and the burst that other pool managers get wrong."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.demand import FunctionDemand
from kappa_core.metrics import ColdStartReason
from kappa_core.pool import rank
from kappa_core.scaling import ScalingSpec, needed
from kappa_gateway.pools.claims import DOUBLING, Situation, decide, places

counts = st.integers(0, 300)
seconds = st.one_of(st.just(0.0), st.floats(0.0005, 30.0))


@st.composite
def situations(draw):
    pods = draw(st.integers(0, 40))
    gateways = draw(st.integers(1, 5))
    return Situation(
        waiting=draw(counts),
        in_flight=draw(counts),
        max_replicas=draw(st.integers(0, 300)),
        concurrency=draw(st.integers(1, 4)),
        mean_duration=draw(seconds),
        running=draw(seconds),
        cold_start=draw(seconds),
        pods=pods,
        own=draw(st.integers(0, pods)),
        free=draw(st.integers(0, 50)),
        rank=draw(st.integers(0, gateways - 1)),
        gateways=gateways,
    )


@given(situations())
def test_claims_stay_within_what_is_free_what_waits_and_max_replicas(now):
    decision = decide(now)
    assert 0 <= decision.claims <= min(now.free, now.waiting)
    assert now.pods + decision.claims <= max(now.max_replicas, now.pods)
    assert decision.look_again is None or decision.look_again > 0
    assert decision.borrow >= 0
    assert decision.claims + decision.borrow <= min(now.free, now.waiting)
    assert now.pods + decision.claims + decision.borrow <= max(now.max_replicas, now.pods)


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
            "own": now.own + claims,
            "free": now.free - claims,
        }
    )
    if now.mean_duration or now.in_flight:
        assert decide(after).claims == 0


@given(st.integers(0, 60), st.integers(0, 20), st.lists(st.integers(0, 30), min_size=1, max_size=5), st.data())
def test_gateways_that_see_each_others_pods_late_or_not_at_all_stay_within_max_replicas(most, others, waiting, data):
    """`others` are the Deployment's own pods, which all see; of what the other gateways claimed each sees some."""
    gateways = [f"gateway-{number}" for number in range(len(waiting))]
    claimed = dict.fromkeys(gateways, 0)
    for _ in range(4):
        for name, count in zip(gateways, waiting, strict=True):
            seen = sum(data.draw(st.integers(0, claimed[other])) for other in gateways if other != name)
            decision = decide(
                Situation(
                    waiting=count,
                    in_flight=claimed[name],
                    max_replicas=most,
                    mean_duration=60.0,
                    pods=others + seen + claimed[name],
                    own=claimed[name],
                    free=100,
                    rank=rank("default/f", name, gateways),
                    gateways=len(gateways),
                )
            )
            claimed[name] += decision.claims
    assert others + sum(claimed.values()) <= max(most, others)


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
                own=len(pods),
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
    decision = decide(Situation(waiting=3, in_flight=1, max_replicas=10, running=0.04, pods=1, own=1, free=5))
    assert decision.claims == 0
    assert decision.look_again == pytest.approx(DOUBLING - 0.04)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"free": 0}, ColdStartReason.POOL_EMPTY),
        ({"pods": 1}, ColdStartReason.STARTING),
        ({"max_replicas": 0}, ColdStartReason.STARTING),
        ({"max_replicas": 1, "gateways": 2, "rank": 1}, ColdStartReason.SHARE),
    ],
)
def test_why_a_request_got_no_pool_pod(change, reason):
    decision = decide(Situation(**{"waiting": 1, "in_flight": 0, "max_replicas": 10, "free": 1, **change}))
    assert (decision.claims, decision.reason) == (0, reason)


def test_what_the_share_does_not_allow_may_be_borrowed():
    alone = Situation(waiting=9, in_flight=0, max_replicas=6, mean_duration=60.0, free=5)
    assert (decide(alone).claims, decide(alone).borrow) == (5, 0)
    shared = [replace(alone, gateways=2, rank=rank) for rank in (0, 1)]
    assert [(decide(one).claims, decide(one).borrow) for one in shared] == [(3, 2), (3, 2)]
    # its own three claimed, the other gateway's not seen: it asks for what is left
    rest = decide(replace(shared[0], pods=3, own=3, waiting=6, in_flight=3))
    assert (rest.claims, rest.borrow, rest.reason) == (0, 3, ColdStartReason.SHARE)
    assert decide(replace(shared[0], pods=6, own=3, waiting=3, in_flight=3)).borrow == 0


@given(st.integers(0, 40), st.lists(st.integers(0, 30), min_size=1, max_size=5), st.data())
def test_gateways_that_lend_each_other_stay_within_max_replicas_and_use_it_up(most, waiting, data):
    """Each sees of the others' pods only some. A lender counts what it lent as its own; the borrower as another's."""
    gateways = [f"gateway-{number}" for number in range(len(waiting))]
    own, lent = dict.fromkeys(gateways, 0), {name: dict.fromkeys(gateways, 0) for name in gateways}

    def situation(name, count):
        others = [other for other in gateways if other != name]
        claimed_by_others = sum(own[other] for other in others)
        lent_to_others = sum(lent[a][b] for a in others for b in others)
        seen = data.draw(st.integers(0, claimed_by_others + lent_to_others))
        borrowed = sum(lent[other][name] for other in others)
        given_ = sum(lent[name].values())
        return Situation(
            waiting=count,
            in_flight=own[name] + borrowed,
            max_replicas=most,
            mean_duration=60.0,
            pods=own[name] + borrowed + given_ + seen,
            own=own[name] + given_,
            free=100,
            rank=rank("default/f", name, gateways),
            gateways=len(gateways),
        )

    for _ in range(4):
        for name, count in zip(gateways, waiting, strict=True):
            decision = decide(situation(name, count))
            own[name] += decision.claims
            for _ in range(decision.borrow):
                for lender in gateways:
                    if lender != name and places(situation(lender, 0)):
                        lent[lender][name] += 1
                        break
    total = sum(own.values()) + sum(sum(one.values()) for one in lent.values())
    assert total <= most


def test_pods_that_others_do_not_see_yet_can_all_be_had_by_one_gateway():
    """With nobody else asking, loans bring the whole of `maxReplicas` to the one that needs it."""
    gateways = ["a", "b", "c"]
    base = Situation(waiting=30, in_flight=0, max_replicas=10, mean_duration=60.0, free=50, gateways=3)
    mine = decide(replace(base, rank=rank("default/f", "a", gateways)))
    lent = sum(places(replace(base, waiting=0, rank=rank("default/f", name, gateways))) for name in ("b", "c"))
    assert mine.claims + lent == 10
    assert mine.borrow == lent


def test_one_request_to_a_cold_function_claims_one():
    assert decide(Situation(waiting=1, in_flight=0, max_replicas=10, free=3)).claims == 1
