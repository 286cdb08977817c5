"""What a pod's answer to an event means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.event import Trouble
from kappa_gateway.events.results import MAX_ERROR_BYTES, error_of, lambda_result, web_result

ERROR = (b"x-amz-function-error", b"Unhandled")


def test_an_agents_answer():
    assert lambda_result(200, [], b"1", 1).trouble is None
    result = lambda_result(200, [ERROR], b'{"errorType": "E", "errorMessage": "m", "stackTrace": []}', 9)
    assert result.trouble is Trouble.FUNCTION_ERROR
    assert result.error == {"errorType": "E", "errorMessage": "m", "stackTrace": []}
    assert (result.function_error, result.response is not None) == ("Unhandled", True)
    assert lambda_result(502, [], b"oops", 4).trouble is Trouble.UNAVAILABLE


def test_a_pod_that_had_to_stop_is_not_the_functions_fault():
    assert lambda_result(200, [ERROR], b'{"errorType": "Kappa.PodStopped"}', 9).trouble is Trouble.UNAVAILABLE


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_a_web_servers_success(status):
    assert web_result(status, [], b"", 0).trouble is None


@pytest.mark.parametrize("status", [400, 404, 418, 500, 502, 599])
def test_a_web_servers_error(status):
    result = web_result(status, [], b"why", 3)
    assert (result.trouble, result.status_code) == (Trouble.FUNCTION_ERROR, status)
    assert "why" in result.error["errorMessage"]


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"7", 7.0), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0), (b"-1", 0.0), (b"9" * 99, 0.0)]
)
def test_a_web_servers_patience(value, seconds):
    result = web_result(429, [(b"retry-after", value)], b"", 0)
    assert (result.trouble, result.retry_after) == (Trouble.UNAVAILABLE, seconds)
    assert web_result(503, [], b"", 0).retry_after == 0.0


@given(st.binary())
def test_an_error_is_always_an_object(body):
    assert isinstance(error_of(body, "Unhandled"), dict)


def test_a_huge_or_deep_error_is_kept_as_text():
    for body in (b'{"errorMessage": "%b"}' % (b"x" * MAX_ERROR_BYTES), b"[" * 50_000):
        error = error_of(body, "Unhandled")
        assert error["errorType"] == "Unhandled"
        assert len(error["errorMessage"]) <= MAX_ERROR_BYTES
