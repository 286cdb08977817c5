"""The request that gives a pool pod its function: an invocation's head, and a body that the pod's agent reads."""

import pytest
from gateway_fakes import manifest

from kappa_core import pool, wire
from kappa_core.specialize import read
from kappa_gateway.pods.claim import Claim
from kappa_gateway.pods.platform import Pod, PoolPod
from kappa_gateway.pods.state import FunctionState, PodState
from kappa_gateway.pods.warm.code import CodeCache
from kappa_gateway.pods.warm.specialize_request import FETCH_TIMEOUT, START_TIMEOUT, Specializer
from kappa_gateway.settings import Settings

NOW = 1_700_000_000.0
ARCHIVE = {"archive": {"url": "s3://bucket/a.zip", "sha256": "0" * 64}}


def specializer(**settings):
    code = CodeCache(Settings(**settings))
    made = Specializer(lambda message: b"s" * 64, code, region="eu-west-1", account="123456789012", clock=lambda: NOW)
    return made, code


def claimed(function):
    state = FunctionState("default", "hello")
    state.apply(function)
    pool_pod = PoolPod("default", "python3.13", "pool-0", "uid-0", "10.0.0.1", 8080)
    return PodState(Pod("default", "pool-0", "hello", "10.0.0.1", 8080, 1, "lambda"), state, 0.0, claim=Claim(pool_pod))


def ask(made, pod, event=b'{"a":1}'):
    head = pod.function.request_head + b"id-1\r\nX-Amz-Log-Type: Tail\r\nContent-Length: %d\r\n\r\n" % len(event)
    data, spec_hash = made.request(pod, "id-1", head, event)
    sent, _, body = data.partition(b"\r\n\r\n")
    first, *lines = sent.decode().split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    got = read(body, pod_uid="uid-0", now=NOW, agent_started=0.0, verify=lambda message, signature: True)
    return first, fields, body, got, spec_hash


def test_it_is_the_invocation_at_another_path_with_another_body():
    made, _ = specializer()
    function = manifest(pool=True, env=[{"name": "A", "value": "1"}])
    pod = claimed(function)
    first, fields, body, got, spec_hash = ask(made, pod)
    assert first == f"POST {wire.SPECIALIZE_PATH} HTTP/1.1"
    assert fields["content-length"] == str(len(body))
    assert (fields["kappa-request-id"], fields["x-amz-log-type"]) == ("id-1", "Tail")
    assert got.payload == b'{"a":1}'
    said = got.specialization
    assert (said.pod_uid, said.request_id, said.issued_at) == ("uid-0", "id-1", NOW)
    assert said.spec_hash == spec_hash == pool.spec_hash(function)
    assert said.env["A"] == "1"
    assert said.config.function_name == "hello"


def test_a_function_that_is_gone_has_none():
    made, _ = specializer()
    pod = claimed(manifest(pool=True))
    pod.function.apply(None)
    with pytest.raises(ValueError, match="gone"):
        made.request(pod, "id-1", b"", b"")


@pytest.mark.parametrize("size", [100, 300_000])
def test_an_archive_travels_in_it_if_it_is_small(size):
    made, code = specializer(address="10.0.0.5", internal_port=9001)
    code.keep("0" * 64, b"z" * size)
    got = ask(made, claimed(manifest(pool=True, code=ARCHIVE)))[3]
    assert bytes(got.code) == (b"z" * size if size == 100 else b"")
    copy = f"http://10.0.0.5:9001{wire.CODE_PATH}{'0' * 64}"
    assert got.specialization.config.code_archive_copy == ("" if size == 100 else copy)


@pytest.mark.parametrize(
    ("function", "seconds"),
    [(None, START_TIMEOUT), (manifest(), START_TIMEOUT), (manifest(code=ARCHIVE), FETCH_TIMEOUT)],
)
def test_how_long_a_start_may_take(function, seconds):
    assert Specializer.start_timeout(function) == seconds
