"""The Lambda API end to end: bytes of a client in, bytes of a pod out. Its rules: unit/gateway/edge/test_lambda_api."""

import asyncio


async def test_a_warm_invocation_is_answered_by_the_pod(gateway, tools):
    pod = await gateway.add_pod()
    answer = await gateway.invoke(body=b'{"a": 1}')
    assert (answer.status, answer.json()) == (200, {"a": 1})
    assert answer.header("content-type") == "application/json"
    assert len(answer.header("x-amzn-requestid")) == 36
    sent = pod.requests[0]
    assert sent.target == "/2015-03-31/functions/function/invocations"
    assert sent.headers["kappa-request-id"] == answer.header("x-amzn-requestid")
    assert sent.headers["kappa-invoked-function-arn"] == "arn:aws:lambda:us-east-1:000000000000:function:hello"


async def test_a_request_waits_for_the_first_pod(gateway, tools):
    waiting = asyncio.create_task(gateway.invoke(body=b"5"))
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").waiters)
    await gateway.add_pod()
    assert (await waiting).json() == 5


async def test_connections_to_a_pod_are_kept(gateway):
    pod = await gateway.add_pod()
    for number in range(5):
        assert (await gateway.invoke(body=b"%d" % number)).json() == number
    assert pod.connections == 1
