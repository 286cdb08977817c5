"""What is counted about a function, against counting one by one."""

from hypothesis import given
from hypothesis import strategies as st

from kappa_core.metrics import ColdStartReason, Phase
from kappa_gateway.pods.counts import FunctionCounts, Histogram

BOUNDS = (0.1, 0.5, 1.0)


@given(st.lists(st.floats(0, 3) | st.sampled_from(BOUNDS)))
def test_a_bucket_has_all_that_is_at_most_its_bound(values):
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    buckets, total = histogram.cumulative()
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in BOUNDS]
    assert buckets == [*expected, ("+Inf", len(values))]
    assert abs(total - sum(values)) < 1e-6


def test_cold_starts_by_path_reason_and_phase():
    counts = FunctionCounts()
    counts.cold_start("Pool", ColdStartReason.CLAIMED, {Phase.TOTAL: 0.5})
    counts.cold_start("Pool", ColdStartReason.CLAIMED, {Phase.TOTAL: 1.5, Phase.INIT: 0.25})
    counts.cold_start("Deployment", ColdStartReason.NO_POOL, {})
    assert counts.cold_starts == {("Pool", "claimed"): 2, ("Deployment", "no_pool"): 1}
    assert {key: histogram.total for key, histogram in counts.cold_phases.items()} == {
        ("Pool", Phase.TOTAL): 2.0,
        ("Pool", Phase.INIT): 0.25,
    }
