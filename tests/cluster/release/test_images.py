"""Functions from container images, of both protocols, and from archives; and what users see when these are broken.

The two images are built with `KAPPA_TEST_BUILDER` (a command with docker's `build -t TAG -f FILE CONTEXT`, which leaves
the image where the cluster finds it; by default the shared cluster's own), or named: `KAPPA_TEST_LAMBDA_IMAGE` (of
`lambda_image/`) and `KAPPA_TEST_WEB_IMAGE` (of `examples/08-container-image/`).
"""

import asyncio
import base64
import hashlib
import io
import os
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubectl import Kubectl
from waiting import eventually, eventually_sync

pytestmark = pytest.mark.cluster

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SHARED_BUILDER = ROOT.parent / "shared" / "cluster" / "image"


def built(variable: str, tag: str, folder: Path) -> str:
    """An image that the cluster has: the one named in the environment, else built from a folder."""
    given = os.environ.get(variable)
    if given:
        return given
    builder = os.environ.get("KAPPA_TEST_BUILDER") or (str(SHARED_BUILDER) if SHARED_BUILDER.exists() else "")
    if not builder:
        pytest.fail(f"set KAPPA_TEST_BUILDER, or build {folder} and name the image in {variable}", pytrace=False)
    command = [builder, "build", "-t", tag, "-f", str(folder / "Dockerfile"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return tag


@pytest.fixture(scope="session")
def lambda_image() -> dict[str, Any]:
    """`spec.code` of an image that runs a Lambda runtime client."""
    ref = built("KAPPA_TEST_LAMBDA_IMAGE", "kappa-test/lambda:1", HERE / "lambda_image")
    return {"image": {"ref": ref, "protocol": "lambda", "pullPolicy": "IfNotPresent"}}


@pytest.fixture(scope="session")
def web_image() -> dict[str, Any]:
    """`spec.code` of an image that is a web server."""
    ref = built("KAPPA_TEST_WEB_IMAGE", "kappa-examples/countdown:1", ROOT / "examples" / "08-container-image")
    return {"image": {"ref": ref, "protocol": "http", "pullPolicy": "IfNotPresent"}}


@pytest.fixture(scope="module", autouse=True)
def deaf(
    kubectl: Kubectl, home: str, web_image: dict[str, Any], find_gateway: Callable[[], str]
) -> Iterator[Future[tuple[int, str]]]:
    """A Function `deaf` that listens nowhere, and the answer to a request that waits for it: started first, since it
    takes 30 s."""
    code = {"image": {**web_image["image"], "port": 9999, "command": ["sleep", "600"]}}
    function = {"apiVersion": "kappa.run/v1alpha1", "kind": "Function", "metadata": {"name": "deaf"}}
    kubectl.apply({**function, "spec": {"code": code}}, namespace=home)
    url = f"{find_gateway()}/fn/{home}/deaf/"

    def wait() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=90) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        assert status != 404, f"the gateway does not know {url} yet"
        return status, text

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(eventually_sync, wait)
    kubectl("delete", "function", "deaf", "--ignore-not-found", namespace=home)


@pytest.fixture
def new_image_function(new_function: Callable[..., Any]) -> Callable[..., Any]:
    def new(code: dict[str, Any], **spec: Any) -> Any:
        return new_function(code, runtime=None, handler=None, **spec)

    # apply() leaves out what is None, so that one call is enough
    return new


# protocol: lambda


async def test_a_lambda_image_cold_then_warm(
    new_image_function: Callable[..., Any], lambda_image: dict[str, Any], kubectl: Kubectl
) -> None:
    function = new_image_function(
        lambda_image,
        memory="256Mi",
        env=[{"name": "GREETING", "value": "$(HOME) $5"}],
        # calls that come to both gateways in turn may get a pod each
        scaling={"maxReplicas": 1},
    )
    first = await function.invoke()
    assert first.status == 200, first
    said = first.json()
    assert (said["calls"], said["name"], said["memory"], said["uid"]) == (1, function.name, "256", 1000)
    assert said["arn"].endswith(f"function:{function.namespace}.{function.name}")
    assert said["request_id"] == first.headers["x-amzn-requestid"]
    assert 0 < said["remaining"] <= 30_000
    assert said["kappa"] == [], "what is the agent's is kept from the function"
    assert (await function.invoke()).json()["calls"] == 2
    failed = await function.invoke({"do": "raise"})
    assert (failed.status, failed.headers["X-Amz-Function-Error"]) == (200, "Unhandled")
    assert failed.json()["errorType"] == "ValueError"
    (pod,) = function.pods()
    name = pod["metadata"]["name"]
    assert "called with {'do': 'raise'}" in kubectl("logs", name, namespace=function.namespace)
    assert "REPORT RequestId" in kubectl("logs", name, "-c", "agent", namespace=function.namespace)
    # a runtime client that found no Runtime API would have ended, and been started again
    assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0, 0]


async def test_a_lambda_image_that_ends_or_hangs_serves_again(
    new_image_function: Callable[..., Any], lambda_image: dict[str, Any]
) -> None:
    # `calls` is to speak of one pod: while its container starts again, whoever waits may well get a second one
    function = new_image_function(lambda_image, timeout="2s", scaling={"maxReplicas": 1})
    assert (await function.invoke()).json()["calls"] == 1
    # once the kubelet starts the container again at once; then it would wait 10 s, 20 s, …: the pod is replaced
    for do, error in [("sleep", "Sandbox.Timedout"), ("exit", "Runtime.ExitError"), ("sleep", "Sandbox.Timedout")]:
        failed = await function.invoke({"do": do, "seconds": 60})
        assert (failed.status, failed.json()["errorType"]) == (200, error)
        started = time.monotonic()
        after = await function.invoke()
        assert (after.status, after.json()["calls"]) == (200, 1), after
        assert time.monotonic() - started < 9, "it waited for the kubelet's back-off"
    assert function.condition()["status"] == "True"


async def test_a_lambda_image_is_drained_before_it_is_stopped(
    new_image_function: Callable[..., Any], lambda_image: dict[str, Any], kubectl: Kubectl
) -> None:
    function = new_image_function(lambda_image)
    assert (await function.invoke()).status == 200
    (pod,) = function.pods()
    name = pod["metadata"]["name"]
    slow = asyncio.create_task(function.invoke({"do": "sleep", "seconds": 4}))
    await asyncio.to_thread(
        eventually_sync,
        lambda: "'seconds': 4" in kubectl("logs", name, namespace=function.namespace),
        within=10,
        every=0.3,
    )
    kubectl("delete", "pod", name, "--wait=false", namespace=function.namespace)
    assert (await function.invoke()).json()["calls"] == 1, "a new pod serves meanwhile"
    assert (await slow).json()["calls"] == 2
    eventually_sync(lambda: kubectl.find("pods", name, namespace=function.namespace) is None, within=10)


# protocol: http


async def test_a_web_server_is_a_function(new_image_function: Callable[..., Any], web_image: dict[str, Any]) -> None:
    function = new_image_function(web_image, concurrency=20, scaling={"maxReplicas": 1, "keepWarm": "1s"})
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        async with session.get(f"{function.url}/") as answer:
            assert (answer.status, await answer.text()) == (
                200,
                f"Ready. Try /fn/{function.namespace}/{function.name}/liftoff\n",
            )
        async with session.post(f"{function.url}/repeat?times=2", data="ab") as answer:
            assert (answer.status, await answer.text()) == (200, "abab")
        async with session.get(f"{function.url}/liftoff") as answer:
            pieces, times = [], []
            async for piece in answer.content.iter_any():
                pieces.append(piece)
                times.append(time.monotonic())
        assert b"".join(pieces) == b"3\n2\n1\nliftoff!\n"
        assert times[-1] - times[0] > 0.3, f"it came at once: {pieces}"
        async with session.ws_connect(f"{function.url}/echo") as socket:
            for text in ("one", "two" * 50_000):
                await socket.send_str(text)
                assert await socket.receive_str(timeout=10) == text

        async def countdown() -> str:
            async with session.get(f"{function.url}/liftoff") as answer:
                return await answer.text()

        started = time.monotonic()
        assert set(await asyncio.gather(*(countdown() for _ in range(20)))) == {"3\n2\n1\nliftoff!\n"}
        assert time.monotonic() - started < 6, "one after the other they take 12 s"
        refused = await function.invoke()
        assert refused.status == 400
        assert f"/fn/{function.namespace}/{function.name}/" in refused.json()["Message"]
        eventually_sync(lambda: not function.pods(), within=30)
        assert await countdown() == "3\n2\n1\nliftoff!\n"


async def test_a_web_server_changes_without_a_failed_request(
    new_image_function: Callable[..., Any], web_image: dict[str, Any]
) -> None:
    function = new_image_function(web_image, concurrency=20)
    await function.known()
    stop, statuses = asyncio.Event(), []

    async def ask(session: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            async with session.get(f"{function.url}/liftoff") as answer:
                text = await answer.text()
                statuses.append((answer.status, text if answer.status != 200 else text[-9:]))

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask(session))
        await eventually(lambda: asyncio.sleep(0, bool(statuses)))
        old = {pod["metadata"]["name"] for pod in function.pods()}
        function.apply(env=[{"name": "CHANGED", "value": "yes"}])

        def changed() -> bool:
            now = {pod["metadata"]["name"] for pod in function.pods()}
            return bool(now) and not now & old

        await asyncio.to_thread(eventually_sync, changed, within=30)
        seen = len(statuses)
        await eventually(lambda: asyncio.sleep(0, len(statuses) > seen + 4))
        stop.set()
    assert set(statuses) == {(200, "liftoff!\n")}


# archives


def zipped(source: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", source)
    return buffer.getvalue()


ARCHIVE = zipped("def handler(event, context): return 'from the archive'")


@pytest.fixture(scope="module")
def archive_url(kubectl: Kubectl, home: str, web_image: dict[str, Any]) -> str:
    """`ARCHIVE`, served by a pod."""
    content = base64.b64encode(ARCHIVE).decode()
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "archive"},
            "binaryData": {"code.zip": content},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "archive"},
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "archive", "configMap": {"name": "archive"}}],
                "containers": [
                    {
                        "name": "server",
                        "image": web_image["image"]["ref"],
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "-m", "http.server", "8000", "--directory", "/archive"],
                        "volumeMounts": [{"name": "archive", "mountPath": "/archive"}],
                        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
                        "securityContext": security,
                    }
                ],
            },
        },
        namespace=home,
    )
    kubectl("wait", "pod/archive", "--for=condition=Ready", "--timeout=30s", namespace=home)
    address = kubectl.get("pods", "archive", namespace=home)["status"]["podIP"]
    return f"http://{address}:8000/code.zip"


async def test_an_archive(new_function: Callable[..., Any], archive_url: str) -> None:
    function = new_function({"archive": {"url": archive_url, "sha256": hashlib.sha256(ARCHIVE).hexdigest()}})
    answer = await function.invoke()
    assert (answer.status, answer.body) == (200, b'"from the archive"')


# what is broken


async def test_what_is_broken_says_so(
    new_function: Callable[..., Any],
    new_image_function: Callable[..., Any],
    lambda_image: dict[str, Any],
    deaf: Future[tuple[int, str]],
    archive_url: str,
) -> None:
    # two are tried at a time, so the slow one comes last
    other_hash = new_function({"archive": {"url": archive_url, "sha256": "0" * 64}})
    not_there = new_function({"archive": {"url": f"{archive_url}.gone", "sha256": "0" * 64}})
    broken = new_image_function(lambda_image, env=[{"name": "BREAK", "value": "yes"}])
    no_runtime = new_image_function({"image": {**lambda_image["image"], "command": ["sleep", "600"]}})

    def says(function: Any, reason: str, *parts: str) -> Callable[[], bool]:
        def is_reported() -> bool:
            condition = function.condition()
            assert (condition["status"], condition["reason"]) == ("False", reason), condition
            text = function.describe()
            assert all(part in text for part in parts), text
            return True

        return is_reported

    async def soon(condition: Callable[[], bool], timeout: float) -> None:
        await asyncio.to_thread(eventually_sync, condition, within=timeout, every=0.5)

    found = hashlib.sha256(ARCHIVE).hexdigest()
    await soon(says(other_hash, "CodeUnreadable", archive_url, found), 20)
    answer = await other_hash.invoke()
    # Lambda's error from the pod that could not read it, the gateway's where there is no pod any more
    assert (answer.status, answer.headers.get("X-Amz-Function-Error")) in [(502, None), (200, "Unhandled")]
    assert found in answer.body.decode()
    await soon(says(not_there, "CodeUnreadable", "404"), 20)
    await soon(says(broken, "InitFailed", "BREAK is set"), 20)
    answer = await broken.invoke()
    assert (answer.status, answer.headers["X-Amz-Function-Error"]) == (200, "Unhandled")
    assert "BREAK is set" in answer.json()["errorMessage"]
    await soon(says(no_runtime, "InitFailed", "Runtime API", "protocol to http"), 40)
    await soon(says(new_function(name="deaf", apply=False), "NotListening", "port 9999"), 40)
    status, text = await asyncio.wait_for(asyncio.wrap_future(deaf), 10)
    assert status == 502, "the request that waited for the pod gets the error too"
    assert "port 9999" in text
