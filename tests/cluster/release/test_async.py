"""Asynchronous invocations and their destinations.

The release is installed with short delays (`IMPATIENT` in the conftest above).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from kubectl import Kubectl
from waiting import eventually, eventually_sync

pytestmark = pytest.mark.cluster

SYSTEM = "kappa-system"

ECHO = """
def handler(event, context):
    return {"event": event, "id": context.aws_request_id}
"""

FAILING = """
ids = []
def handler(event, context):
    ids.append(context.aws_request_id)
    if len(ids) <= event["failures"]:
        raise ValueError(f"failure {len(ids)}")
    return ids
"""

COUNTING = """
import time
runs = {}
def handler(event, context):
    runs[event["name"]] = runs.get(event["name"], 0) + 1
    time.sleep(event.get("sleep", 0))
    return runs[event["name"]]
"""

RECEIVER = """
import base64, http.server, json
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        first = Receiver.count == 0
        Receiver.count += 1
        self.send_response(503 if first else 204)
        self.end_headers()
        got = {"headers": {k.lower(): v for k, v in self.headers.items()}, "body": base64.b64encode(body).decode()}
        print(json.dumps(got), flush=True)
    def log_message(self, *arguments):
        pass
Receiver.count = 0
http.server.HTTPServer(("", 8000), Receiver).serve_forever()
"""

LISTENER = """
import asyncio, json, os
import nats
async def main():
    user, password = os.environ["NATS_USER"], os.environ["NATS_PASSWORD"]
    client = await nats.connect("nats://kappa-nats:4222", user=user, password=password)
    subscription = await client.subscribe("orders.>")
    await client.flush()
    print("listening", flush=True)
    async for message in subscription.messages:
        print(json.dumps({"subject": message.subject, "record": json.loads(message.data)}), flush=True)
asyncio.run(main())
"""


# -- the way of an event


def test_boto3_gets_202_and_the_function_runs_with_that_request_id(
    new_function: Callable[..., Any], gateway_url: str
) -> None:
    function = new_function(ECHO)
    eventually_sync(function.is_verified, within=30)  # and no pod is left of that: it runs from zero
    client = boto3.client(
        "lambda",
        endpoint_url=gateway_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )
    name = f"{function.namespace}.{function.name}"
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps({"n": 1}))
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    request_id = answer["ResponseMetadata"]["RequestId"]
    event = asyncio.run(function.ended(request_id))
    assert (event["status"], event["attempts"]) == ("succeeded", 1)
    assert event["result"] == {"event": {"n": 1}, "id": request_id}


async def test_a_function_error_is_tried_again_with_the_same_id(new_function: Callable[..., Any]) -> None:
    function = new_function(FAILING, scaling={"maxReplicas": 1})
    request_id = await function.submit({"failures": 2})
    event = await function.ended(request_id)
    assert (event["status"], event["attempts"]) == ("succeeded", 3)
    assert event["result"] == [request_id] * 3


async def test_the_last_failure_goes_to_the_dead_letter_and_the_cli_runs_it_again(
    new_function: Callable[..., Any], gateway_url: str
) -> None:
    function = new_function(FAILING, scaling={"maxReplicas": 1}, **{"async": {"maxAttempts": 1}})
    request_id = await function.submit({"failures": 1})
    event = await function.ended(request_id)
    assert (event["status"], event["attempts"], event["deadLetter"]) == ("failed", 1, True)
    assert event["error"]["errorMessage"] == "failure 1"
    listed = await kappa("async", "ls", function.name, "-n", function.namespace, gateway=gateway_url)
    assert request_id in listed
    await kappa("async", "redrive", function.name, request_id, "-n", function.namespace, gateway=gateway_url)
    again = (await function.event(request_id))["redrivenAs"]
    event = await function.ended(again)
    assert (event["status"], event["result"]) == ("succeeded", [request_id, again])


async def test_max_replicas_of_zero_goes_straight_to_the_dead_letter(new_function: Callable[..., Any]) -> None:
    function = new_function(ECHO, scaling={"maxReplicas": 0})
    event = await function.ended(await function.submit(), timeout=20)
    assert (event["status"], event["attempts"], event["deadLetter"]) == ("failed", 0, True)
    assert "maxReplicas" in event["error"]["errorMessage"]


async def test_a_backlog_scales_out_and_a_key_makes_an_event_once(new_function: Callable[..., Any]) -> None:
    function = new_function(COUNTING, scaling={"maxReplicas": 3, "keepWarm": "1m"})
    keyed = {"Kappa-Idempotency-Key": "order-7"}
    ids = [await function.submit({"name": "seven", "sleep": 2}, **keyed) for _ in range(2)]
    assert ids[0] == ids[1]
    ids += [await function.submit({"name": str(number), "sleep": 2}) for number in range(6)]
    events = await asyncio.gather(*(function.ended(request_id) for request_id in set(ids)))
    assert [event["result"] for event in events] == [1] * 7
    assert len(function.pods()) > 1


# -- destinations


async def test_functions_form_a_chain(new_function: Callable[..., Any]) -> None:
    second = new_function("def handler(event, context): return event")
    first = new_function(ECHO, **{"async": {"onSuccess": {"function": {"name": second.name}}}})
    request_id = await first.submit({"n": 1})

    async def arrived() -> Any:
        return await second.events()

    (event,) = await eventually(arrived, within=60)
    record = (await second.ended(event["requestId"]))["result"]
    assert record["requestContext"] | {"requestId": request_id, "condition": "Success"} == record["requestContext"]
    assert record["requestContext"]["approximateInvokeCount"] == 1
    assert record["requestContext"]["functionArn"].endswith(f":{first.namespace}.{first.name}:$LATEST")
    assert record["requestPayload"] == {"n": 1}
    assert record["responsePayload"] == {"event": {"n": 1}, "id": request_id}


def start_pod(
    kubectl: Kubectl, name: str, namespace: str, image: str, program: list[str], **container: Any
) -> Callable[[], list[str]]:
    """A pod that meets the restricted Pod Security level; what it answers is what it has printed, line by line."""
    image = f"{os.environ.get('KAPPA_TEST_REGISTRY', 'kappa')}/{image}:{os.environ.get('KAPPA_TEST_TAG', 'dev')}"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    described = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "securityContext": security}
    spec = {
        "containers": [{**described, "command": program, **container}],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubectl.apply(pod, namespace=namespace)
    kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s", namespace=namespace)
    return lambda: kubectl("logs", name, namespace=namespace).splitlines()


@pytest.fixture
def receiver(kubectl: Kubectl, home: str) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """A web server in a pod that refuses the first request: its address, and what it got."""
    ready = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    lines = start_pod(kubectl, "receiver", home, "runtime-python", ["python3", "-c", RECEIVER], readinessProbe=ready)
    address = kubectl.get("pods", "receiver", namespace=home)["status"]["podIP"]
    host = f"[{address}]" if ":" in address else address
    yield f"http://{host}:8000/orders?a=1", lambda: [json.loads(line) for line in lines()]
    kubectl("delete", "pod", "receiver", "--wait=false", namespace=home)


@pytest.fixture
def listener(kubectl: Kubectl, release: Any) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What comes to the subjects orders.> of the chart's NATS."""
    env = [
        {"name": f"NATS_{key.upper()}", "valueFrom": {"secretKeyRef": {"name": "kappa-nats", "key": key}}}
        for key in ("user", "password")
    ]
    program = ["/opt/kappa/bin/python", "-c", LISTENER]
    lines = start_pod(kubectl, "kappa-test-listener", SYSTEM, "gateway", program, env=env)
    eventually_sync(lambda: "listening" in lines(), within=30)
    yield lambda: [json.loads(line) for line in lines()[1:]]
    kubectl("delete", "pod", "kappa-test-listener", "--wait=false", namespace=SYSTEM)


async def test_a_subject_of_nats_gets_the_record(
    new_function: Callable[..., Any], listener: Callable[[], list[dict[str, Any]]]
) -> None:
    function = new_function(ECHO, **{"async": {"onSuccess": {"nats": {"subject": "orders.done"}}}})
    request_id = await function.submit({"n": 1})
    (message,) = await asyncio.to_thread(eventually_sync, listener, within=60)
    assert message["subject"] == "orders.done"
    assert message["record"]["requestContext"]["requestId"] == request_id
    assert message["record"]["responsePayload"] == {"event": {"n": 1}, "id": request_id}


async def test_a_web_address_gets_a_signed_cloud_event_until_it_takes_it(
    new_function: Callable[..., Any],
    receiver: tuple[str, Callable[[], list[dict[str, Any]]]],
    kubectl: Kubectl,
) -> None:
    address, received = receiver
    code = "def handler(event, context): raise KeyError('order')"
    hears = {"maxAttempts": 1, "onFailure": {"http": {"url": address}}}
    function = new_function(code, **{"async": hears})
    request_id = await function.submit({"n": 1})
    first, second = await asyncio.to_thread(eventually_sync, lambda: len(received()) == 2 and received(), within=60)
    assert first["headers"]["webhook-id"] == second["headers"]["webhook-id"], "a repetition could not be recognized"
    body = base64.b64decode(second["body"])
    headers = second["headers"]
    assert (headers["ce-specversion"], headers["content-type"]) == ("1.0", "application/json")
    assert {"ce-id", "ce-source", "ce-type"} <= set(headers)
    record = json.loads(body)
    assert (record["requestContext"]["requestId"], record["requestContext"]["condition"]) == (
        request_id,
        "RetriesExhausted",
    )
    assert record["responsePayload"]["errorType"] == "KeyError"
    # As a receiver checks it, with the namespace's key, which it was given.
    secret = kubectl.get("secrets", "kappa-signing", namespace=SYSTEM)["data"]["signing-key"]
    key = hmac.digest(base64.b64decode(secret), f"kappa-webhook/{function.namespace}".encode(), hashlib.sha256)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert hmac.compare_digest(headers["webhook-signature"], expected)
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 120


async def kappa(*arguments: str, gateway: str) -> str:
    """The command line's output."""
    program = Path(sys.executable).with_name("kappa")
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        env={**os.environ, "KAPPA_GATEWAY": gateway},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, f"kappa {' '.join(arguments)}: {errors.decode()}{output.decode()}"
    return output.decode()
