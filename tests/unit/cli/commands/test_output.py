"""What commands print."""

import pytest

from kappa_cli.commands.output import age, block, due, error_text, short


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0s"), (59.9, "59s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (3600, "60m"), (7200, "2h")),
        *((7260, "2h1m"), (93600, "26h"), (172800, "2d"), (180000, "2d2h"), (10**6, "11d")),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert short(seconds) == text


def test_times_are_told_from_now() -> None:
    assert age("1970-01-01T00:00:10Z", 70) == "60s"
    assert age("1970-01-01T00:00:10Z", 0) == "0s", "a clock that is ahead"
    assert due("1970-01-01T00:00:10Z", 0) == "again in 10s"
    assert due("1970-01-01T00:00:10Z", 20) == "again now"


def test_an_error_is_one_line_and_another_json_is_itself() -> None:
    assert error_text({"errorType": "ValueError", "errorMessage": "no"}) == "ValueError: no"
    assert error_text({"errorMessage": "no"}) == "Error: no"
    assert error_text({"a": 1}) == '{"a": 1}'


def test_a_block_has_its_label_in_the_first_line() -> None:
    assert block("error", "a\nb") == [("error", "a"), ("", "b")]
