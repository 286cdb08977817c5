"""The gateway before a real agent process, called by an unmodified boto3."""

import asyncio
import base64
import json

import boto3
import pytest
from agents import launch
from botocore.config import Config
from botocore.exceptions import ClientError

from kappa_core.agent_config import AgentConfig
from kappa_gateway.pods.platform import Pod

CODE = """
import json, os, sys, time

def handler(event, context):
    print("seen", event)
    if event.get("fail"):
        raise KeyError("no such thing")
    if event.get("sleep"):
        time.sleep(event["sleep"])
    if event.get("exit"):
        os._exit(3)
    if "requestContext" in event:
        method = event["requestContext"]["http"]["method"]
        return {"statusCode": 418, "headers": {"x-method": method}, "body": event.get("body", "-")}
    return {"event": event, "id": context.aws_request_id, "arn": context.invoked_function_arn,
            "custom": context.client_context.custom if context.client_context else None}
"""


@pytest.fixture
async def agent(tools, tmp_path):
    """A gateway with one function, `hello`, whose pod is a real agent with two runtime processes."""
    config = AgentConfig(
        function_name="hello",
        runtime="python3.13",
        handler="main.handler",
        code_inline=CODE,
        task_root=str(tmp_path),
        host="127.0.0.1",
        port=0,
        runtime_api_port=0,
        parent_death=True,
        concurrency=2,
        timeout=2.0,
    )
    process, port = launch(config, tmp_path, tmp_path / "log")
    backend = tools.backend()
    backend.functions = [tools.function(timeout="2s", concurrency=2)]
    try:
        async with tools.running(backend) as gateway:
            gateway.sink.put_pod(Pod("default", "agent", "hello", "127.0.0.1", port, 2, "lambda"))
            yield gateway
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def aws(agent):
    client = boto3.client(
        "lambda",
        endpoint_url=f"http://127.0.0.1:{agent.port}",
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 1}),
    )

    async def call(**arguments):
        def invoke():
            answer = client.invoke(**arguments)
            answer["Payload"] = answer["Payload"].read()
            return answer

        return await asyncio.to_thread(invoke)

    yield call
    client.close()


async def test_boto3_invokes_by_name_and_arn(aws):
    context = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    for name in ("hello", "default.hello", "arn:aws:lambda:us-east-1:000000000000:function:hello:$LATEST"):
        answer = await aws(FunctionName=name, Payload=b'{"a":1}', ClientContext=context, LogType="Tail")
        body = json.loads(answer["Payload"])
        assert answer["StatusCode"] == 200
        assert answer["ExecutedVersion"] == "$LATEST"
        assert "FunctionError" not in answer
        assert body["event"] == {"a": 1}
        assert body["id"] == answer["ResponseMetadata"]["RequestId"]
        assert body["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:hello"
        assert body["custom"] == {"k": "v"}
        log = base64.b64decode(answer["LogResult"]).decode()
        assert "seen {'a': 1}" in log
        assert f"REPORT RequestId: {body['id']}" in log


async def test_boto3_sees_function_errors(aws):
    answer = await aws(FunctionName="hello", Payload=b'{"fail":true}')
    error = json.loads(answer["Payload"])
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (error["errorType"], error["errorMessage"]) == ("KeyError", "'no such thing'")
    answer = await aws(FunctionName="hello", Payload=b'{"exit":true}')
    assert answer["FunctionError"] == "Unhandled"
    assert json.loads((await aws(FunctionName="hello"))["Payload"])["event"] == {}


async def test_boto3_sees_the_apis_errors(aws):
    with pytest.raises(ClientError) as missing:
        await aws(FunctionName="nope")
    assert missing.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert "nope" in missing.value.response["Error"]["Message"]
    with pytest.raises(ClientError) as refused:
        await aws(FunctionName="hello", InvocationType="Event")
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValueException"
    with pytest.raises(ClientError) as wrong:
        await aws(FunctionName="hello", Payload=b"{")
    assert wrong.value.response["Error"]["Code"] == "InvalidRequestContentException"
    assert (await aws(FunctionName="hello", InvocationType="DryRun"))["StatusCode"] == 204


async def test_a_timeout_is_the_agents_and_comes_through(agent):
    answer = await agent.invoke(body=b'{"sleep":30}')
    assert answer.header("x-amz-function-error") == "Unhandled"
    assert "timed out" in answer.json()["errorMessage"]
    assert (await agent.invoke()).json()["event"] == {}


async def test_a_function_url_of_a_real_function(agent):
    answer = await agent.request("PATCH", "/fn/default/hello/x", b"body", {"content-type": "text/plain"})
    assert (answer.status, answer.header("x-method"), answer.body) == (418, "PATCH", b"body")


async def test_concurrent_callers_share_the_pods_slots(agent):
    answers = await asyncio.gather(*(agent.invoke(body=b'{"n":%d}' % number) for number in range(50)))
    assert sorted(answer.json()["event"]["n"] for answer in answers) == list(range(50))


async def test_two_gateways_share_a_pod_without_errors(agent, tools):
    backend = tools.backend()
    backend.functions = [tools.function(concurrency=2)]
    async with tools.running(backend) as other:
        pod = next(iter(agent.gateway.functions.get("default", "hello").pods.values())).observed
        other.sink.put_pod(pod)
        answers = await asyncio.gather(
            *(gateway.invoke(body=b'{"sleep":0.02}') for gateway in (agent, other) for _ in range(15))
        )
        assert {answer.status for answer in answers} == {200}
        assert not any(answer.header("x-amz-function-error") for answer in answers)


async def test_a_large_body_both_ways(agent):
    text = "x" * 4_000_000
    answer = await agent.invoke(body=json.dumps({"text": text}).encode())
    assert answer.json()["event"]["text"] == text
