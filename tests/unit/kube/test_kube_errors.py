"""What an answer of the API server becomes."""

import pytest

from kappa_kube.errors import ApiError, Disconnected, Expired, KubeError, NotLeader, RequestFailed, refusal


def test_a_status_object_keeps_kubernetes_words() -> None:
    error = refusal(429, b'{"reason": "TooManyRequests", "message": "slow down"}', "3")
    assert (error.status, error.reason, error.message, error.retry_after) == (429, "TooManyRequests", "slow down", 3.0)
    assert str(error) == "429 TooManyRequests: slow down"


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[]", b"null", b"\xff", b'{"message": 1}'])
def test_a_refusal_that_is_not_a_status_object_is_still_a_refusal(body: bytes) -> None:
    assert refusal(502, body, "soon").status == 502
    assert refusal(502, body, "soon").retry_after is None


def test_410_is_an_error_of_its_own() -> None:
    assert type(refusal(410, b"", None)) is Expired
    assert type(refusal(409, b"", None)) is ApiError


def test_a_wait_of_an_hour_is_cut_short() -> None:
    assert refusal(503, b"", "3600").retry_after == 30.0


def test_what_is_worth_another_try() -> None:
    assert all(issubclass(error, RequestFailed) for error in (ApiError, Expired, Disconnected))
    assert not issubclass(NotLeader, RequestFailed)
    assert issubclass(NotLeader, KubeError)
