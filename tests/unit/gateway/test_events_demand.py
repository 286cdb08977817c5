"""Events in the queue as demand: reported by each gateway, counted once, and gone when they are."""

from kappa_core.demand import FunctionDemand, decode, encode, merge
from kappa_core.scaling import History, ScalingSpec, decide
from kappa_gateway.pods.demand import DemandFeed
from kappa_gateway.pods.state import FunctionState

SPEC = ScalingSpec(min_replicas=0, max_replicas=10, keep_warm=60.0, concurrency=1)


def demand(backlog, *, waiting=0, mean=1.0):
    return FunctionDemand("default", "f", waiting=waiting, backlog=backlog, mean_duration=mean, cold_start=0.5)


def test_a_function_that_has_only_events_in_the_queue_is_reported_while_it_has():
    function = FunctionState("default", "f")
    feed = DemandFeed("gateway", lambda: [function])
    assert feed.full_report().functions == ()
    function.backlog = 3
    (said,) = decode(encode(feed.full_report())).functions
    assert (said.backlog, said.waiting, said.in_flight) == (3, 0, 0)
    function.backlog = 0
    assert feed.full_report().functions == ()


def test_two_gateways_see_the_same_events():
    merged = merge([demand(40, waiting=1), demand(38, waiting=1)])
    assert (merged.backlog, merged.waiting) == (40, 2)


def test_a_backlog_starts_pods_from_zero_and_they_go_when_it_is_gone():
    history = History()
    assert decide(0.0, demand(1), history, SPEC) == 1
    assert decide(1.0, demand(1000), history, SPEC) == 10
    assert decide(2.0, None, history, SPEC) == 10
    assert decide(62.0, None, history, SPEC) == 0
