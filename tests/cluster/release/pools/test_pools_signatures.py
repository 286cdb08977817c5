"""Who may take a pod from its pool: gateways alone, each request for one pod and for now."""

import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from kubectl import Kubectl
from nacl.signing import SigningKey
from waiting import eventually_sync

from kappa_core import manifests, pool, wire
from kappa_core.function import Function
from kappa_core.manifests import Platform
from kappa_core.specialize import Specialization, encode

pytestmark = pytest.mark.cluster

CODE = """
import os
def handler(event, context):
    return {"pod": os.uname().nodename}
"""
REQUEST_ID = "8b6c7a34-5f0d-4c53-9d3b-6f5d1c2b3a49"


async def test_a_pod_takes_only_what_a_gateway_signed_for_it_now(
    new_function: Callable[..., Any], pools: Any, pool_key: Callable[[], SigningKey], one_pod: dict[str, Any]
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    pod, other = pools.free(function.namespace)[:2]
    good = specialization(function, pod, pool_key())
    refused = {
        "not signed by a gateway": (specialization(function, pod, SigningKey.generate()), 403, wire.REFUSED_SIGNATURE),
        "another event": (good[:-1] + b" ", 403, wire.REFUSED_ALTERED),
        "other settings": (good.replace(b'"main.handler"', b'"evil.handler"'), 403, wire.REFUSED_SIGNATURE),
        "another pod's": (specialization(function, other, pool_key()), 403, wire.REFUSED_OTHER_POD),
        "of long ago": (specialization(function, pod, pool_key(), age=120), 403, wire.REFUSED_STALE),
        "from the future": (specialization(function, pod, pool_key(), age=-120), 403, wire.REFUSED_STALE),
    }
    for what, (body, status, reason) in refused.items():
        found, headers, text = await specialize(pod, body)
        assert (found, headers.get(wire.REFUSED)) == (status, reason), f"{what}: {found} {text!r}"
        assert b"Traceback" not in text
    for nonsense in (b"", b"{}", good[:40], b"\xff" * 200):
        found, _, text = await specialize(pod, nonsense)
        assert found in (400, 403), f"{nonsense[:10]!r}: {found} {text!r}"
    # all of that left it free
    status, _, _ = await specialize(pod, good)
    assert status == 200
    found, headers, _ = await specialize(pod, good)
    assert (found, headers.get(wire.REFUSED)) == (409, wire.REFUSED_TAKEN), "the same once more"
    found, headers, _ = await specialize(other, good)
    assert (found, headers.get(wire.REFUSED)) == (403, wire.REFUSED_OTHER_POD), "the same to another pod"


async def test_a_pod_that_no_gateway_speaks_for_is_found(
    new_function: Callable[..., Any],
    pools: Any,
    pool_key: Callable[[], SigningKey],
    kubectl: Kubectl,
    one_pod: dict[str, Any],
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    pod = pools.free(function.namespace)[0]
    status, _, body = await specialize(pod, specialization(function, pod, pool_key()))
    assert status == 200
    assert json.loads(body)["pod"] == pod["metadata"]["name"]
    eventually_sync(lambda: pools.has_its_place(function, pod["metadata"]["name"]), within=30)


def specialization(function: Any, pod: dict[str, Any], key: SigningKey, *, age: float = 0.0) -> bytes:
    """A gateway's request that makes `pod` the function's."""
    model = Function.model_validate(
        {"metadata": {"name": function.name, "namespace": function.namespace}, "spec": function.get()["spec"]}
    )
    return encode(
        Specialization(
            pod_uid=pod["metadata"]["uid"],
            request_id=REQUEST_ID,
            spec_hash=pool.spec_hash(model),
            issued_at=time.time() - age,
            config=manifests.agent_config(model, Platform()),
            env=pool.environment(model),
        ),
        code=b"",
        payload=b"{}",
        sign=lambda message: key.sign(message).signature,
    )


async def specialize(pod: dict[str, Any], body: bytes) -> tuple[int, Any, bytes]:
    """(status, headers, body) of the pod's answer."""
    url = f"http://{pod['status']['podIP']}:8080{wire.SPECIALIZE_PATH}"
    headers = {wire.REQUEST_ID: REQUEST_ID, wire.DEADLINE_MS: str(int((time.time() + 30) * 1000))}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session,
        session.post(url, data=body, headers=headers) as answer,
    ):
        return answer.status, answer.headers.copy(), await answer.read()
