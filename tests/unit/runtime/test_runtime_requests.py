"""Requests read without a socket: headers into invocations, readiness waits, the sidecar's mark."""

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_runtime.agent import gateway_wire
from kappa_runtime.io.http_protocol import Request
from kappa_runtime.worker import sidecar


def request(headers=None, body=b"1"):
    return Request(b"POST", b"/x?y", headers or {}, body, True, len(body), False)


def test_what_is_left_out_is_made_up():
    first, second = (gateway_wire.read_invocation(request(), None) for _ in range(2))
    uuid4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(uuid4, first.request_id)
    assert first.request_id != second.request_id
    assert re.fullmatch(rb"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", first.trace_id)
    assert first.tail is None
    assert first.deadline_ms == 0


def test_an_empty_event_is_an_empty_object():
    assert gateway_wire.read_invocation(request(body=b""), None).event == b"{}"


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4))
def test_a_client_context_is_one_ascii_line(context):
    line = gateway_wire.read_client_context(base64.b64encode(json.dumps(context, ensure_ascii=False).encode()))
    assert json.loads(line) == context
    assert line.isascii()
    assert b"\n" not in line


@given(st.binary(max_size=40))
def test_any_client_context_is_read_or_refused(value):
    try:
        line = gateway_wire.read_client_context(value)
    except gateway_wire.BadRequest:
        return
    assert isinstance(json.loads(line), dict)


@given(st.binary(max_size=30))
def test_any_request_id_is_taken_or_refused(value):
    try:
        invocation = gateway_wire.read_invocation(request({b"kappa-request-id": value}), None)
    except gateway_wire.BadRequest:
        return
    assert re.fullmatch(r"[A-Za-z0-9-]{1,128}", invocation.request_id)


@pytest.mark.parametrize(("query", "seconds"), [(b"", 0), (b"wait=1.5", 1.5), (b"a=b&wait=2", 2), (b"wait=1e9", 60)])
def test_a_wait(query, seconds):
    assert gateway_wire.read_wait(query) == seconds


@pytest.mark.parametrize("query", [b"wait=", b"wait=soon", b"wait=-1", b"wait=nan"])
def test_a_wait_that_is_none(query):
    with pytest.raises(ValueError):
        gateway_wire.read_wait(query)


def test_only_this_agents_runtimes_are_its_sidecar():
    assert sidecar.is_runtime(b"PATH=/bin\0AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001\0X=1", 9001)
    assert not sidecar.is_runtime(b"PATH=/bin\0AWS_LAMBDA_RUNTIME_API=127.0.0.1:90011\0X=1", 9001)
    assert not sidecar.is_runtime(b"NOT_AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", 9001)
    assert not sidecar.is_runtime(b"", 9001)
