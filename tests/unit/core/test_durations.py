from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.durations import format_duration, mebibytes, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("1m30s", 90), ("1.5h", 5400), ("0s", 0), ("0.1s", 0.1), ("1h1m1s1ms", 3661.001)],
)
def test_reads_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "1d", "-1s", "+1s", "1 s", " 1s", "1s ", "1s\n", ".5s", "1.s", "1e3s", "1S", "١s"]
)
def test_refuses_what_is_no_duration_and_shows_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="500ms, 30s, 5m or 1h30m") as refused:
        parse_duration(text)
    assert repr(text) in str(refused.value)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_reads_back_to_the_same_milliseconds(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.25, "250ms"), (90, "1m30s"), (86400, "24h"), (0.0001, "0s")]
)
def test_writes_the_shortest_notation(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("128", "128"),
        ("250m", "0.25"),
        ("1k", "1000"),
        ("1Ki", "1024"),
        ("128Mi", "134217728"),
        ("1.5Gi", "1610612736"),
        ("1E", "1000000000000000000"),
        ("1E2", "100"),
        ("1e9", "1000000000"),
        ("129e6", "129000000"),
        ("2Ei", "2305843009213693952"),
    ],
)
def test_reads_quantities(text: str, number: str) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize(
    "text", ["", "Mi", "128MB", "128 Mi", "-1", "1.Gi", ".5", "1e", "1e3Mi", "1KI", "1K", "0x10", "inf", "1\n", "1_0"]
)
def test_refuses_what_is_no_quantity_and_shows_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="128Mi, 1Gi, 250m or 2") as refused:
        parse_quantity(text)
    assert repr(text) in str(refused.value)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    for read in (parse_duration, parse_quantity):
        try:
            number = read(text)
        except ValueError:
            continue
        assert number >= 0


@given(st.integers(min_value=0, max_value=2**40))
def test_memory_is_rounded_up_to_whole_mebibytes(size: int) -> None:
    rounded = mebibytes(str(size)) * 1024 * 1024
    assert size <= rounded < size + 1024 * 1024


def test_memory_of_a_whole_number_of_mebibytes_is_exact() -> None:
    assert [mebibytes(text) for text in ("128Mi", "1Gi", "134217728", "1", "128M")] == [128, 1024, 128, 1, 123]
