import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.logs import JsonFormatter, TextFormatter, configure


def record(message: str, *args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    return logging.getLogger("kappa.test").makeRecord(
        "kappa.test", logging.WARNING, "file.py", 1, message, args, exc_info, extra=extra
    )


def failure() -> Any:
    try:
        raise RuntimeError("broken\nin two lines")
    except RuntimeError:
        return sys.exc_info()


def test_json_is_one_object_a_line_with_the_extras() -> None:
    line = JsonFormatter().format(record("%s waits for %d", "hello", 3, function="default/hello", request_id="r-1"))
    entry = json.loads(line)
    moment = datetime.fromisoformat(entry.pop("time"))
    assert moment.utcoffset() == timedelta(0)
    assert entry == {
        "level": "warning",
        "logger": "kappa.test",
        "message": "hello waits for 3",
        "function": "default/hello",
        "request_id": "r-1",
    }


@given(st.text(), st.text())
def test_json_stays_one_line_whatever_is_logged(message: str, value: str) -> None:
    line = JsonFormatter().format(record("%s", message, value=value))
    assert "\n" not in line
    assert json.loads(line)["message"] == message
    assert json.loads(line)["value"] == value


def test_json_holds_what_json_cannot_as_text_and_the_traceback_in_one_field() -> None:
    entry = json.loads(JsonFormatter().format(record("x", exc_info=failure(), error=ValueError("bad"), pods={"a"})))
    assert entry["error"] == "bad"
    assert entry["pods"] == "{'a'}"
    assert entry["exception"].startswith("Traceback")
    assert "RuntimeError: broken\nin two lines" in entry["exception"]


def test_text_is_for_a_terminal() -> None:
    line = TextFormatter().format(record("%s is up", "hello", function="default/hello"))
    time, level, rest = line.split(maxsplit=2)
    assert datetime.strptime(time, "%H:%M:%S.%f")
    assert (level, rest) == ("warning", "hello is up function=default/hello")
    assert "\nTraceback" in TextFormatter().format(record("x", exc_info=failure()))


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_configure_sends_everything_to_stderr_once(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    configure("info")
    logging.getLogger("kappa.somewhere").info("hello")
    logging.getLogger("kappa.somewhere").debug("not told")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["message"] for line in captured.err.splitlines()] == ["hello"]
    configure("debug", "text")
    logging.getLogger("kappa.somewhere").debug("told")
    assert capsys.readouterr().err.endswith("debug   told\n")


def test_configure_refuses_a_level_that_is_none(root: logging.Logger) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure("loud")
