import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.demand import DemandReport, FunctionDemand, decode, encode, merge

COUNTS = st.integers(min_value=0, max_value=10_000)
SECONDS = st.floats(min_value=0, max_value=3600)
DEMANDS = st.builds(
    FunctionDemand,
    namespace=st.just("default"),
    name=st.just("hello"),
    in_flight=COUNTS,
    waiting=COUNTS,
    mean_duration=SECONDS,
    cold_start=SECONDS,
    pods=st.dictionaries(st.text(max_size=10), COUNTS, max_size=5),
)
REPORTS = st.builds(
    DemandReport, gateway=st.text(max_size=20), full=st.booleans(), functions=st.lists(DEMANDS, max_size=4).map(tuple)
)


@given(REPORTS)
def test_a_report_comes_back_from_its_line(report: DemandReport) -> None:
    line = encode(report)
    assert decode(line) == report
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


def test_fields_of_a_newer_gateway_are_ignored_and_those_of_an_older_one_have_defaults() -> None:
    line = json.dumps(
        {"gateway": "a", "full": True, "new": 1, "functions": [{"namespace": "n", "name": "f", "shiny": []}]}
    )
    assert decode(line) == DemandReport("a", True, (FunctionDemand("n", "f"),))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b"\xff",
        b'{"gateway": "a", "full": true}',
        b'{"gateway": "a", "full": true, "functions": 3}',
        b'{"gateway": "a", "full": true, "functions": [null]}',
        b'{"gateway": "a", "full": true, "functions": [{"name": "f"}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "waiting": "many"}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "waiting": null}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "pods": [1]}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "waiting": -1}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "mean_duration": NaN}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "cold_start": -0.5}]}',
        b'{"gateway": "a", "full": true, "functions": [{"namespace": "n", "name": "f", "waiting": Infinity}]}',
    ],
)
def test_a_line_that_is_no_report_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_a_refusal_shows_the_line_but_not_all_of_a_long_one() -> None:
    with pytest.raises(ValueError, match="not a demand report") as refused:
        decode(b'{"gateway": "a", "x": "' + b"y" * 100_000 + b'"}')
    assert len(str(refused.value)) < 500


@given(st.lists(DEMANDS, min_size=1, max_size=5))
def test_merging_adds_counts_and_keeps_means_within_what_was_reported(demands: list[FunctionDemand]) -> None:
    merged = merge(demands)
    assert merged.in_flight == sum(demand.in_flight for demand in demands)
    assert merged.waiting == sum(demand.waiting for demand in demands)
    assert merged.cold_start == max(demand.cold_start for demand in demands)
    assert sum(merged.pods.values()) == sum(sum(demand.pods.values()) for demand in demands)
    known = [demand.mean_duration for demand in demands if demand.mean_duration]
    if known:
        assert min(known) * 0.999 <= merged.mean_duration <= max(known) * 1.001
    else:
        assert merged.mean_duration == 0


@given(DEMANDS)
def test_merging_one_is_that_one(demand: FunctionDemand) -> None:
    merged = merge([demand])
    assert merged.mean_duration == pytest.approx(demand.mean_duration)
    assert (merged.in_flight, merged.waiting, merged.pods) == (demand.in_flight, demand.waiting, demand.pods)


@given(st.lists(DEMANDS, min_size=2, max_size=5))
def test_the_order_of_gateways_does_not_matter(demands: list[FunctionDemand]) -> None:
    there, back = merge(demands), merge(demands[::-1])
    assert there.mean_duration == pytest.approx(back.mean_duration)
    assert (there.in_flight, there.waiting, there.cold_start, there.pods) == (
        back.in_flight,
        back.waiting,
        back.cold_start,
        back.pods,
    )


def test_merging_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def test_json_is_what_the_reports_are():
    assert json.loads(encode(DemandReport("g", True, ()))) == {
        "gateway": "g",
        "full": True,
        "functions": [],
        "claims": [],
    }
