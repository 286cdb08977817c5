"""From `kubectl apply` to answers, to zero, and again; by Lambda's API, by boto3 and by URL."""

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from kubectl import Kubectl
from waiting import eventually_sync

pytestmark = pytest.mark.cluster

ECHO = """
import json, os
calls = 0
def handler(event, context):
    global calls
    calls += 1
    remaining = context.get_remaining_time_in_millis()
    return {"event": event, "calls": calls, "arn": context.invoked_function_arn, "remaining": remaining}
"""

WEB = """
def handler(event, context):
    http = event["requestContext"]["http"]
    return {
        "statusCode": 201,
        "headers": {"content-type": "text/plain", "x-method": http["method"]},
        "cookies": ["seen=yes"],
        "body": f"{event['rawPath']}?{event['rawQueryString']} {event.get('body')}",
    }
"""


async def test_apply_then_cold_then_warm_then_zero_then_cold_again(new_function: Callable[..., Any]) -> None:
    function = new_function(ECHO, scaling={"keepWarm": "3s"})
    # the first invocation may come before the operator has done anything: it waits
    first = await function.invoke({"n": 1})
    assert (first.status, first.json()["event"], first.json()["calls"]) == (200, {"n": 1}, 1)
    assert first.json()["arn"].endswith(f"function:{function.namespace}.{function.name}")
    assert 0 < first.json()["remaining"] <= 30_000

    eventually_sync(function.settled)
    warm = await function.invoke({"n": 2})
    assert warm.json()["calls"] == 2, "the second invocation was not at the same process"
    assert function.condition()["status"] == "True"

    eventually_sync(lambda: function.wanted_replicas() == 0 and not function.pods(), within=30)
    eventually_sync(lambda: function.get()["status"]["replicas"] == 0)
    assert function.condition() | {"status": "True", "reason": "Deployed"} == function.condition()

    again = await function.invoke({"n": 3})
    assert (again.status, again.json()["calls"]) == (200, 1)


async def test_kubectl_get_shows_what_a_user_asks_first(new_function: Callable[..., Any], kubectl: Kubectl) -> None:
    function = new_function()
    eventually_sync(lambda: function.condition()["status"] == "True")
    header, row = kubectl("get", "functions.kappa.run", function.name, namespace=function.namespace).splitlines()
    assert header.split() == ["NAME", "RUNTIME", "READY", "REPLICAS", "URL", "AGE"]
    assert row.split()[:3] == [function.name, "python3.13", "True"]
    assert row.split()[4].endswith(f"/fn/{function.namespace}/{function.name}")


async def test_two_namespaces_may_have_a_function_of_the_same_name(
    new_function: Callable[..., Any], make_namespace: Callable[[], str]
) -> None:
    other = make_namespace()
    one = new_function("def handler(event, context): return 'one'", name="twin")
    two = new_function("def handler(event, context): return 'two'", name="twin", namespace=other)
    answers = await asyncio.gather(*(each.invoke() for each in [one, two] * 4))
    assert [answer.json() for answer in answers] == ["one", "two"] * 4
    one.delete()
    assert (await two.invoke()).json() == "two"


def test_boto3_invokes_unmodified(new_function: Callable[..., Any], gateway_url: str) -> None:
    function = new_function(ECHO + "\n    print('never')\n")
    client = boto3.client(
        "lambda",
        endpoint_url=gateway_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
    )
    name = f"{function.namespace}.{function.name}"
    answer = client.invoke(FunctionName=name, Payload=json.dumps({"a": 1}), LogType="Tail")
    assert (answer["StatusCode"], json.load(answer["Payload"])["event"]) == (200, {"a": 1})
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "REPORT RequestId" in base64.b64decode(answer["LogResult"]).decode()
    assert client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="nobody"):
        client.invoke(FunctionName=f"{function.namespace}.nobody")


def test_an_error_of_the_code_is_lambdas_error(new_function: Callable[..., Any], gateway_url: str) -> None:
    function = new_function("def handler(event, context): raise ValueError('no such order')")
    answer = asyncio.run(function.invoke())
    assert (answer.status, answer.headers["X-Amz-Function-Error"]) == (200, "Unhandled")
    assert answer.json() | {"errorType": "ValueError", "errorMessage": "no such order"} == answer.json()


async def test_the_function_url_gives_and_takes_http(new_function: Callable[..., Any]) -> None:
    function = new_function(WEB)
    await function.known()
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{function.url}/orders/7?a=1&b=2", data="text", headers={"Content-Type": "text/plain"}) as answer,
    ):
        text = await answer.text()
        assert (answer.status, answer.headers["x-method"]) == (201, "PUT")
        assert answer.headers["Set-Cookie"] == "seen=yes"
    assert text == "/orders/7?a=1&b=2 text"


async def test_a_configmap_brings_several_files(new_function: Callable[..., Any], kubectl: Kubectl, home: str) -> None:
    data = {
        "main.py": "import helper\ndef handler(event, context): return helper.greet()",
        "helper.py": "def greet(): return 'from a file'",
    }
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two-files"}, "data": data}, namespace=home
    )
    function = new_function({"configMap": {"name": "two-files"}})
    assert (await function.invoke()).json() == "from a file"


async def test_impossible_values_are_refused_clearly(new_function: Callable[..., Any], gateway_url: str) -> None:
    function = new_function()
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway_url}/2015-03-31/functions/nobody/invocations", data="{}") as answer:
            assert (answer.status, answer.headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
            assert "nobody" in (await answer.json(content_type=None))["Message"]
        async with session.post(function.invoke_url, data="{not json") as answer:
            assert answer.status == 400
        async with session.post(function.invoke_url, data=io.BytesIO(b'"' + b"x" * 10_000_000 + b'"')) as answer:
            assert answer.status == 413
    assert (await function.invoke()).status == 200
