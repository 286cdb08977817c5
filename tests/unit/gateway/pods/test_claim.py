"""A claim's states: the table, and what may be said of each state whatever came before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.pods.claim import TRANSITIONS, Claim, ClaimEvent, ClaimState
from kappa_gateway.pods.platform import PoolPod

POD = PoolPod("default", "python3.13", "pool-0", "uid-0", "10.0.0.1", 8080)
FINAL = {ClaimState.CONFIRMED, ClaimState.RELEASED, ClaimState.LOST}


def after(*events):
    claim = Claim(POD)
    for event in events:
        claim.advance(event)
    return claim


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([ClaimEvent.SEND, ClaimEvent.ACCEPT, ClaimEvent.CONFIRM], ClaimState.CONFIRMED),
        ([ClaimEvent.SEND, ClaimEvent.CONFIRM, ClaimEvent.ACCEPT], ClaimState.CONFIRMED),
        ([ClaimEvent.RELEASE], ClaimState.RELEASED),
        ([ClaimEvent.SEND, ClaimEvent.RELEASE, ClaimEvent.ACCEPT], ClaimState.RELEASED),
        ([ClaimEvent.SEND, ClaimEvent.ACCEPT, ClaimEvent.LOSE], ClaimState.LOST),
        ([ClaimEvent.CONFIRM, ClaimEvent.SEND], ClaimState.CONFIRMED),
    ],
)
def test_its_way(events, state):
    assert after(*events).state is state


@given(st.lists(st.sampled_from(ClaimEvent), max_size=12))
def test_a_settled_claim_stays_so_and_only_what_was_sent_is_reported(events):
    claim = Claim(POD)
    sent = False
    for event in events:
        before = claim.state
        changed = claim.advance(event)
        assert changed == ((before, event) in TRANSITIONS)
        assert changed or claim.state is before
        if before in FINAL:
            assert not changed
        sent = sent or claim.state is ClaimState.SENT
        assert (claim.as_reported("f") is not None) == (claim.state in (ClaimState.SENT, ClaimState.TAKEN))
        assert claim.is_pending == (claim.state not in FINAL)


def test_every_state_can_be_reached_and_none_but_the_final_ones_is_a_dead_end():
    assert {state for state, _ in TRANSITIONS} == set(ClaimState) - FINAL
    assert set(TRANSITIONS.values()) == set(ClaimState) - {ClaimState.CLAIMED}


def test_the_report_names_what_the_pod_was_specialized_for():
    claim = Claim(POD)
    claim.advance(ClaimEvent.SEND)
    claim.spec_hash = "abc"
    reported = claim.as_reported("f")
    assert (reported.function, reported.pod, reported.pod_uid, reported.spec_hash) == ("f", "pool-0", "uid-0", "abc")
