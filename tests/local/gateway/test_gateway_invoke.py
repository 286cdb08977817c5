"""The Lambda API end to end: a client's bytes in, a pod's bytes out."""

import asyncio
import base64
import json


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


async def test_an_empty_body_is_an_empty_event(gateway):
    await gateway.add_pod()
    assert (await gateway.invoke(body=None)).body == b"{}"


async def test_an_unknown_function_is_named(gateway):
    answer = await gateway.invoke("team-a.nope")
    assert answer.status == 404
    assert answer.header("x-amzn-errortype") == "ResourceNotFoundException"
    assert "nope" in answer.json()["Message"]
    assert "team-a" in answer.json()["Message"]


async def test_names_arns_and_qualifiers(gateway):
    await gateway.add_pod()
    for name in (
        "hello",
        "default.hello",
        "hello:$LATEST",
        "hello%3A%24LATEST",
        "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Ahello",
        "000000000000:function:hello",
    ):
        assert (await gateway.invoke(name)).status == 200, name
    assert (await gateway.invoke("hello:prod")).status == 404
    assert (
        await gateway.request("POST", "/2015-03-31/functions/hello/invocations?Qualifier=prod", b"{}")
    ).status == 404
    assert (
        await gateway.request("POST", "/2015-03-31/functions/hello/invocations?Qualifier=$LATEST", b"1")
    ).json() == 1
    assert (await gateway.invoke("Not%20a%20name")).status == 400


async def test_what_the_caller_does_wrong_is_said(gateway):
    await gateway.add_pod()
    answer = await gateway.invoke(body=b"{nonsense")
    assert (answer.status, answer.header("x-amzn-errortype")) == (400, "InvalidRequestContentException")
    answer = await gateway.invoke(x_amz_invocation_type="Event")
    assert answer.status == 400
    assert "KAPPA_GATEWAY_QUEUE_URL" in answer.json()["Message"], "no queue: say how to get one"
    answer = await gateway.invoke(x_amz_invocation_type="Nonsense")
    assert (answer.status, answer.header("x-amzn-errortype")) == (400, "InvalidParameterValueException")
    answer = await gateway.invoke(x_amz_client_context="{}")
    assert (answer.status, answer.header("x-amzn-errortype")) == (400, "InvalidRequestContentException")
    answer = await gateway.invoke("web")
    assert answer.status == 400
    assert "/fn/default/web/" in answer.json()["Message"]


async def test_a_dry_run_runs_nothing(gateway):
    pod = await gateway.add_pod()
    assert (await gateway.invoke(x_amz_invocation_type="DryRun")).status == 204
    assert pod.requests == []


async def test_context_and_log_type_reach_the_pod_and_its_headers_the_caller(gateway, tools):
    async def answer(request):
        return tools.response(
            b'{"errorMessage":"no"}',
            headers={
                "X-Amz-Function-Error": "Unhandled",
                "X-Amz-Log-Result": "bG9n",
                "X-Amz-Executed-Version": "$LATEST",
            },
        )

    pod = await gateway.add_pod(answer)
    context = base64.b64encode(json.dumps({"client": {}}).encode()).decode()
    got = await gateway.invoke(x_amz_client_context=context, x_amz_log_type="Tail")
    assert got.header("x-amz-function-error") == "Unhandled"
    assert got.header("x-amz-log-result") == "bG9n"
    assert got.header("x-amz-executed-version") == "$LATEST"
    assert pod.requests[0].headers["x-amz-client-context"] == context
    assert pod.requests[0].headers["x-amz-log-type"] == "Tail"
