"""Archives in pool pods: in the request itself, from the gateway that has a copy, or from where the Function says."""

import hashlib
import io
import json
import random
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually_sync

pytestmark = pytest.mark.cluster

SMALL, LARGE = 1_000, 3 * 1024 * 1024
"""Under and over what travels in a request (256 KiB)."""
CODE = """
import hashlib, os
def handler(event, context):
    with open(os.path.join(os.environ["LAMBDA_TASK_ROOT"], "data.bin"), "rb") as file:
        return {"pod": os.uname().nodename, "data": hashlib.sha256(file.read()).hexdigest()}
"""
SERVER = """
import http.server, json

files, closed, asked = {}, {}, []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        closed[self.path] = self.headers.get("Closed-To", "").split()
        self.answer(201, b"")

    def do_GET(self):
        if self.path == "/asked":
            self.answer(200, json.dumps(asked).encode())
            return
        host = self.client_address[0]
        status = 404 if self.path not in files else 403 if host in closed[self.path] else 200
        asked.append([self.path, host, status])
        self.answer(status, files[self.path] if status == 200 else b"")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def zipped(size: int) -> tuple[bytes, str]:
    """An archive of CODE and `size` bytes that do not compress, and the hash of those."""
    data = random.Random(size).randbytes(size)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("main.py", CODE)
        archive.writestr("data.bin", data)
    return content.getvalue(), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Files:
    """A web server in the cluster that says who asked."""

    url: str

    def put(self, path: str, content: bytes, closed_to: str = "") -> dict[str, Any]:
        """A Function's `code`. Addresses that it is closed to, with spaces between them, get 403."""
        request = urllib.request.Request(self.url + path, data=content, method="PUT", headers={"Closed-To": closed_to})
        with urllib.request.urlopen(request, timeout=30):
            return {"archive": {"url": self.url + path, "sha256": hashlib.sha256(content).hexdigest()}}

    def asked(self, path: str) -> dict[str, int]:
        """Who asked for it (IP address) and the status of their last answer."""
        with urllib.request.urlopen(f"{self.url}/asked", timeout=10) as answer:
            return {host: status for asked, host, status in json.load(answer) if asked == path}


@pytest.fixture(scope="module")
def files(kubectl: Kubectl, home: str, runtime_image: str) -> Iterator[Files]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "server",
        "image": runtime_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/kappa/bin/python", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": security,
    }
    spec = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "files"}, "spec": spec}, namespace=home)
    kubectl("wait", "pod/files", "--for=condition=Ready", "--timeout=60s", namespace=home)
    address = kubectl.get("pods", "files", namespace=home)["status"]["podIP"]
    yield Files(f"http://{address}:8000")
    kubectl("delete", "pod", "files", "--wait=false", namespace=home)


@pytest.fixture(scope="module")
def runtime_image(kubectl: Kubectl, release: Any) -> str:
    """An image with Python that the cluster has: the runtime's."""
    operator = kubectl.get("deployments", "kappa-operator", namespace="kappa-system")
    env = {each["name"]: each.get("value") for each in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    return str(json.loads(env["KAPPA_OPERATOR_RUNTIMES"])["python3.13"]["image"])


@pytest.fixture
def addresses(gateways: Callable[[], list[dict[str, Any]]]) -> set[str]:
    """The gateways' own."""
    return {pod["status"]["podIP"] for pod in gateways()}


async def assert_starts_from_the_pool(function: Any, pools: Any, data: str) -> str:
    """The address of the pod that answered."""
    free = {pod["metadata"]["name"]: pod for pod in pools.free(function.namespace)}
    answer = await function.invoke()
    assert (answer.status, answer.headers.get("X-Amz-Function-Error")) == (200, None), answer.body
    assert pools.cold_start(answer)[0] == "pool", answer.headers
    assert answer.json()["data"] == data
    pod = free[answer.json()["pod"]]
    eventually_sync(lambda: pools.is_adopted(function, pod["metadata"]["uid"]), within=30)
    assert (await function.invoke()).json() == answer.json()
    return str(pod["status"]["podIP"])


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_gateway_has_it_and_the_pod_gets_it_from_there(
    new_function: Callable[..., Any],
    pools: Any,
    files: Files,
    addresses: set[str],
    one_pod: dict[str, Any],
    size: int,
) -> None:
    content, data = zipped(size)
    path = f"/{size}.zip"
    code = files.put(path, content)
    function = new_function(code, scaling=one_pod)
    pools.wait_until_cold(function)
    eventually_sync(lambda: all(has_copy(address, code) for address in addresses), within=30)
    pod = await assert_starts_from_the_pool(function, pools, data)
    assert addresses <= files.asked(path).keys()
    assert pod not in files.asked(path), "it has it from its gateway"


async def test_a_gateway_cannot_have_it_and_the_pod_fetches_it_itself(
    new_function: Callable[..., Any],
    pools: Any,
    files: Files,
    addresses: set[str],
    one_pod: dict[str, Any],
) -> None:
    content, data = zipped(LARGE + 1)
    code = files.put("/closed.zip", content, closed_to=" ".join(addresses))
    function = new_function(code, scaling=one_pod)
    pools.wait_until_cold(function)
    eventually_sync(lambda: addresses <= files.asked("/closed.zip").keys(), within=30)
    pod = await assert_starts_from_the_pool(function, pools, data)
    asked = files.asked("/closed.zip")
    assert {asked[address] for address in addresses} == {403}
    assert asked[pod] == 200


async def test_an_archive_of_another_hash_is_reported_from_the_pool_too(
    new_function: Callable[..., Any], pools: Any, files: Files, one_pod: dict[str, Any]
) -> None:
    content, _ = zipped(SMALL)
    code = files.put("/changed.zip", content)
    function = new_function(code, scaling=one_pod)
    pools.wait_until_cold(function)
    found = code["archive"]["sha256"]
    code["archive"]["sha256"] = "0" * 64
    function.apply(code=code)
    answer = await function.invoke()
    # Lambda's error from the pod that could not use it, the gateway's where that is known already
    assert (answer.status, answer.headers.get("X-Amz-Function-Error")) in [(502, None), (200, "Unhandled")]
    assert found in answer.body.decode()
    assert files.url in answer.body.decode()


def has_copy(gateway: str, code: dict[str, Any]) -> bool:
    url = f"http://{gateway}:8081/v1/code/{code['archive']['sha256']}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status) == 200
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error}") from error
