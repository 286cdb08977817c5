"""Log lines, log tails and error JSON."""

import base64
import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import wire
from kappa_runtime.worker import errors, logs


@given(st.lists(st.binary(max_size=3000), max_size=20), st.integers(4, 500))
def test_a_tail_is_the_end_of_the_whole(pieces, limit):
    tail = logs.LogTail(limit)
    for piece in pieces:
        tail.add(piece)
    whole = b"".join(pieces)
    kept = base64.b64decode(tail.base64())
    assert whole.endswith(kept)
    assert min(len(whole), limit) - 3 <= len(kept) <= limit


@given(st.text(max_size=3000), st.integers(4, 200))
def test_a_tail_of_text_is_text(text, limit):
    tail = logs.LogTail(limit)
    tail.add(text.encode())
    assert text.endswith(base64.b64decode(tail.base64()).decode())


def test_the_tail_is_lambdas_4_kib():
    tail = logs.LogTail()
    tail.add(b"x" * 10_000)
    assert len(base64.b64decode(tail.base64())) == wire.LOG_TAIL_BYTES == 4096


def test_the_report_line_is_lambdas():
    lines = logs.end_lines("r1", duration_ms=1.234, memory_mib=128, max_memory_mib=31, init_ms=102.5).decode()
    assert lines == (
        "END RequestId: r1\n"
        "REPORT RequestId: r1\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 31 MB\tInit Duration: 102.50 ms\t\n"
    )
    assert logs.start_line("r1") == b"START RequestId: r1 Version: $LATEST\n"


def test_the_report_line_of_what_the_platform_ended():
    lines = logs.end_lines(
        "r1", duration_ms=3000.0, memory_mib=128, max_memory_mib=31, init_ms=None, status="timeout"
    ).decode()
    assert lines.endswith(
        "\tBilled Duration: 3000 ms\tMemory Size: 128 MB\tMax Memory Used: 31 MB\tStatus: timeout\t\n"
    )
    assert "Init Duration" not in lines


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "Runtime exited without providing a reason"),
        (1 << 8, "Runtime exited with error: exit status 1"),
        (255 << 8, "Runtime exited with error: exit status 255"),
        (int(signal.SIGKILL), "Runtime exited with error: signal: killed"),
        (int(signal.SIGSEGV), "Runtime exited with error: signal: segmentation fault"),
        (int(signal.SIGABRT) | 0x80, "Runtime exited with error: signal: aborted"),
    ],
)
def test_how_a_process_ended(status, words):
    assert errors.exited(status) == words


def test_a_timeouts_message():
    assert errors.timed_out("r1", 3, 1714557600.1239) == "2024-05-01T10:00:00.123Z r1 Task timed out after 3.00 seconds"


def test_an_exit_at_start_as_an_answer():
    error = errors.start_error(
        errors.EXIT_ERROR,
        errors.exit_message("", errors.exited(os.W_EXITCODE(2, 0) if hasattr(os, "W_EXITCODE") else 2 << 8)),
    )
    assert json.loads(errors.for_invocation(error, "r1", 0)) == {
        "errorType": "Runtime.ExitError",
        "errorMessage": "RequestId: r1 Error: Runtime exited with error: exit status 2",
    }


@given(st.binary(max_size=200), st.text(max_size=20))
def test_an_init_error_always_has_type_and_message(raw, fallback):
    error = errors.init_error(raw, fallback)
    assert isinstance(error["errorType"], str)
    assert error["errorType"]
    assert isinstance(error["errorMessage"], str)
    json.loads(errors.for_invocation(error, "r1", 0))


def test_an_init_error_is_taken_as_it_is():
    raw = json.dumps({"errorMessage": "m", "errorType": "T", "requestId": "", "stackTrace": ["a"]}).encode()
    error = errors.init_error(raw, "")
    assert error == {"errorType": "T", "errorMessage": "m", "stackTrace": ["a"]}
    assert json.loads(errors.for_invocation(error, "r1", 0)) == {**error, "requestId": "r1"}


def test_odd_text_survives_as_json():
    assert json.loads(errors.body("T", "a\ud800b"))["errorMessage"]
