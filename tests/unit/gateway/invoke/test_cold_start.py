"""A cold start's phases, by a clock in the test's hand: they add up to the total, whatever is known of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import wire
from kappa_core.metrics import Phase
from kappa_gateway.invoke import cold_start
from kappa_gateway.pods.platform import Pod
from kappa_gateway.pods.state import FunctionState, PodState

times = st.floats(0.0, 10.0)
AGENT = (Phase.VERIFY, Phase.CODE, Phase.INIT, Phase.RUN)


def adds_up(found):
    assert all(seconds >= 0 for seconds in found.values())
    assert sum(seconds for phase, seconds in found.items() if phase is not Phase.TOTAL) == pytest.approx(
        found[Phase.TOTAL], rel=0.05, abs=1e-9
    )


@given(st.lists(times, min_size=4, max_size=4).map(sorted), st.dictionaries(st.sampled_from(AGENT), times))
def test_the_pools_phases_add_up(points, agent):
    asked, granted, sent, answered = points
    found = cold_start.pool_phases(asked, granted, sent, answered, agent)
    assert found[Phase.TOTAL] == answered - asked
    adds_up(found)


@given(
    asked=times,
    first_byte=times,
    stamps=st.fixed_dictionaries({}, optional={"scheduled": times, "started": times}),
    seen=st.tuples(times, st.none() | times, st.none() | times, st.none() | times),
    run=times,
)
def test_the_deployments_phases_add_up(asked, first_byte, stamps, seen, run):
    pod = PodState(
        Pod("default", "p", "f", "10.0.0.1", 8080, 1, "lambda", phases=stamps), FunctionState("default", "f"), seen[0]
    )
    pod.start.addressed, pod.start.accepted, pod.start.ready = seen[1:]
    first_byte = max(first_byte, asked)
    found = cold_start.deployment_phases(asked, pod, first_byte, run)
    assert found[Phase.TOTAL] == first_byte - asked
    adds_up(found)


def test_each_phase_is_what_was_between_its_moments():
    agent = {Phase.VERIFY: 0.25, Phase.CODE: 0.5, Phase.INIT: 1.0, Phase.RUN: 2.0}
    found = cold_start.pool_phases(10.0, 10.5, 11.5, 16.0, agent)
    assert found == {
        Phase.QUEUE: 0.5, Phase.AGENT: 1.0, Phase.VERIFY: 0.25, Phase.CODE: 0.5, Phase.INIT: 1.0, Phase.RUN: 2.0,
        Phase.FIRST_BYTE: 0.75, Phase.TOTAL: 6.0,
    }  # fmt: skip


def test_the_header_says_path_total_and_phases_in_order():
    agent = cold_start.agent_phases([(wire.PHASES.lower().encode(), b"verify=0.10,code=0.20,init=1.00,run=2.00")])
    found = cold_start.pool_phases(0.0, 0.0001, 0.0002, 0.005, agent)
    assert cold_start.header(cold_start.POOL, found) == (
        b"pool;total=5.00;queue=0.10;agent=0.10;verify=0.10;code=0.20;init=1.00;run=2.00;first_byte=1.50"
    )


def test_an_agent_that_says_nothing_leaves_it_all_to_the_first_byte():
    assert cold_start.agent_phases([(b"content-type", b"application/json")]) == {}
    assert cold_start.pool_phases(0.0, 0.0, 0.0, 1.0, {})[Phase.FIRST_BYTE] == 1.0
