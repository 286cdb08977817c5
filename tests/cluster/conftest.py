"""What every cluster test stands on: a cluster, kubectl, a fresh namespace, waiting, and the installed chart.

The cluster is whichever `KUBECONFIG` names; where it names none and `../shared/cluster/up` exists, that one is started.
Images come from `KAPPA_TEST_REGISTRY` (default `kappa`) with the tag `KAPPA_TEST_TAG` (default `dev`).
The queue is the chart's own NATS; `KAPPA_TEST_NATS_IMAGE` names its image where the official one cannot be pulled (on the
cluster of `../shared/cluster` that is the default, made by `make nats-image`).
Where namespaces cannot be made, `KAPPA_TEST_NAMESPACES=a,b,c` names some that exist: tests then use those, and the
chart serves those alone.
"""

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHARED_CLUSTER = ROOT.parent / "shared" / "cluster" / "up"
RELEASE = "kappa"
SYSTEM = "kappa-system"
REGISTRY = os.environ.get("KAPPA_TEST_REGISTRY", "kappa")
TAG = os.environ.get("KAPPA_TEST_TAG", "dev")
NATS_IMAGE = os.environ.get("KAPPA_TEST_NATS_IMAGE", "kappa-test/nats:dev" if SHARED_CLUSTER.exists() else "")
IMPATIENT = {"eventRetryDelays": [0.5, 1], "eventFirstBackoff": 0.2, "eventLongestBackoff": 2, "queueLease": 5}
"""Settings of the gateway with which tests of asynchronous invocations need no minutes."""
NAMESPACES = [name for name in os.environ.get("KAPPA_TEST_NAMESPACES", "").split(",") if name]
T = TypeVar("T")


class CommandFailed(AssertionError):
    """A command ended with another code than 0; the message holds what it printed."""


def run(*command: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float = 120) -> str:
    """A command's standard output. Raises `CommandFailed` with its standard error when it fails."""
    done = subprocess.run(
        command, env=dict(env or os.environ), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Kubectl:
    """`kubectl("get", "pods")` is its output; `.json(...)` the parsed `-o json`; `.apply(manifest)` applies.

    A namespace is `kubectl("get", "pods", namespace="x")`. Raises `CommandFailed`.
    """

    program: str
    kubeconfig: str

    def __call__(self, *args: str, namespace: str | None = None, stdin: str | None = None, timeout: float = 120) -> str:
        where = ("--namespace", namespace) if namespace else ()
        return run(self.program, "--kubeconfig", self.kubeconfig, *where, *args, stdin=stdin, timeout=timeout)

    def json(self, *args: str, namespace: str | None = None) -> Any:
        return json.loads(self(*args, "-o", "json", namespace=namespace))

    def exec_last(self, pod: str, *command: str, namespace: str | None = None) -> None:
        """Runs in a pod's container what ends that container, and so, often, the command itself before it can say how it went.

        What it says is therefore printed alone, for a test that fails: it must see for itself that the container ended.
        """
        try:
            self("exec", pod, "--", *command, namespace=namespace)
        except CommandFailed as error:
            print(error)

    def items(self, *args: str, namespace: str | None = None) -> list[dict[str, Any]]:
        """The `items` of a list: `kubectl.items("get", "pods", "-l", "a=b")`."""
        items: list[dict[str, Any]] = self.json(*args, namespace=namespace)["items"]
        return items

    def apply(self, *manifests: Mapping[str, Any] | str, namespace: str | None = None) -> None:
        """Apply manifests, each a dictionary or YAML text."""
        text = "\n---\n".join(
            manifest if isinstance(manifest, str) else yaml.safe_dump(dict(manifest)) for manifest in manifests
        )
        self("apply", "--filename", "-", namespace=namespace, stdin=text)


class Eventually:
    """Wait for a condition, never for a time.

    `eventually(condition, timeout)` calls `condition` until it returns something true, and returns that. An
    `AssertionError` in it (also a failed kubectl) counts as not yet; the last one is shown when the time is over.
    `await eventually.soon(condition, timeout)` is the same for a coroutine function, on the event loop.
    """

    def __call__(self, condition: Callable[[], T], timeout: float = 30, interval: float = 0.1) -> T:
        deadline = time.monotonic() + timeout
        while True:
            try:
                result, problem = condition(), None
            except AssertionError as error:
                problem = error
            else:
                if result:
                    return result
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not so within {timeout} s: {problem or getattr(condition, '__name__', condition)}"
                ) from problem
            time.sleep(interval)

    async def soon(self, condition: Callable[[], Awaitable[T]], timeout: float = 30, interval: float = 0.1) -> T:
        deadline = time.monotonic() + timeout
        while True:
            try:
                result, problem = await condition(), None
            except AssertionError as error:
                problem = error
            else:
                if result:
                    return result
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not so within {timeout} s: {problem or getattr(condition, '__name__', condition)}"
                ) from problem
            await asyncio.sleep(interval)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    return Eventually()


def program(name: str) -> str:
    """A command's path; envtest's usual folder counts even where PATH does not name it."""
    found = shutil.which(name, path=f"/usr/local/kubebuilder/bin:{os.environ.get('PATH', '')}")
    if not found:
        pytest.fail(f"the cluster tests need {name} in PATH", pytrace=False)
    return found


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The cluster under test. Fails, saying what to do, where there is none."""
    path = os.environ.get("KUBECONFIG", "")
    if not path and SHARED_CLUSTER.exists():
        path = start_shared_cluster()
    if not path:
        pytest.fail(
            "the cluster tests need a Kubernetes cluster: set KUBECONFIG to one that has Kappa's images "
            "(kind create cluster && make images && kind load docker-image kappa/operator:dev kappa/gateway:dev "
            "kappa/runtime-python:dev), or leave them out: pytest -m 'not cluster'",
            pytrace=False,
        )
    os.environ["KUBECONFIG"] = path
    try:
        run(program("kubectl"), "--kubeconfig", path, "version", "--request-timeout=10s")
    except CommandFailed as error:
        pytest.fail(f"the cluster of KUBECONFIG={path} does not answer:\n{error}", pytrace=False)
    return path


def start_shared_cluster() -> str:
    """Its kubeconfig's path. Run while the cluster is up already, `up` rewrites kube-proxy's configuration, and kube-proxy
    ends itself over that a moment later: a second `up` starts it."""
    path = run(str(SHARED_CLUSTER), timeout=300).strip().splitlines()[-1]
    node = Kubectl(program("kubectl"), path)(
        "get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}"
    )

    def proxy_runs() -> bool:
        try:
            socket.create_connection((node, 10256), timeout=1).close()
        except OSError:
            return False
        return True

    steady = time.monotonic() + 3
    while time.monotonic() < steady:
        if not proxy_runs():
            run(str(SHARED_CLUSTER), timeout=300)
            Eventually()(proxy_runs, timeout=30)
            break
        time.sleep(0.2)
    return path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: str) -> Kubectl:
    return Kubectl(program("kubectl"), kubeconfig)


@pytest.fixture(scope="session")
def make_namespace(kubectl: Kubectl) -> Iterator[Callable[[], str]]:
    """Makes namespaces that enforce the restricted Pod Security level, and deletes them in the end."""
    made: list[str] = []
    given = iter(NAMESPACES)

    def make() -> str:
        if NAMESPACES:
            name = next(given, "")
            assert name, "KAPPA_TEST_NAMESPACES names too few namespaces for these tests"
            return name
        name = f"kappa-test-{secrets.token_hex(4)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "kappa-test": "true"}
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        made.append(name)
        return name

    yield make
    if made:
        kubectl("delete", "namespace", *made, "--wait=false", "--ignore-not-found")


@pytest.fixture
def namespace(kubectl: Kubectl, make_namespace: Callable[[], str]) -> Iterator[str]:
    """A fresh namespace that enforces the restricted Pod Security level; deleted after the test."""
    name = make_namespace()
    yield name
    if name not in NAMESPACES:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@dataclass(frozen=True)
class Release:
    """The installed chart: `install()` also upgrades, and waits until everything is ready."""

    kubeconfig: str

    def helm(self, *args: str, timeout: float = 240) -> str:
        return run(program("helm"), *args, "--kubeconfig", self.kubeconfig, "--namespace", SYSTEM, timeout=timeout)

    def install(self, *args: str) -> None:
        """With the test images, and `args` such as `--set=operator.replicas=2`."""
        take = ["--take-ownership", *(["--force-conflicts"] if self._is_helm_4() else [])]
        values = [f"--set-string=image.registry={REGISTRY},image.tag={TAG}", "--set=gateway.service.type=NodePort"]
        values += [f"--set-json=gateway.config.{name}={json.dumps(value)}" for name, value in IMPATIENT.items()]
        if NATS_IMAGE:
            values.append(f"--set-string=queue.nats.image={NATS_IMAGE}")
        if NAMESPACES:
            values.append(f"--set=watchNamespaces={{{','.join(NAMESPACES)}}}")
        chart = str(ROOT / "charts" / "kappa")
        command = ["upgrade", "--install", RELEASE, chart, "--create-namespace", *take, *values, *args]
        self.helm(*command, "--wait", "--timeout", "3m")

    def uninstall(self) -> None:
        self.helm("uninstall", RELEASE, "--wait", "--timeout", "3m")

    def _is_helm_4(self) -> bool:
        return not run(program("helm"), "version", "--short").startswith("v3")


@pytest.fixture(scope="session")
def release(kubeconfig: str) -> Release:
    """The chart, installed from this tree as the release `kappa` in `kappa-system`; `KAPPA_TEST_RELEASE=keep` takes the
    one that is installed as it is."""
    installed = Release(kubeconfig)
    if os.environ.get("KAPPA_TEST_RELEASE") != "keep":
        installed.install()
    return installed


@pytest.fixture(scope="module")
def operator_paused(kubectl: Kubectl) -> Iterator[None]:
    """For tests that bring an operator of their own: an installed one does nothing meanwhile."""
    name = f"deployment/{RELEASE}-operator"
    installed = kubectl("get", name, "--ignore-not-found", "-o", "jsonpath={.spec.replicas}", namespace=SYSTEM)
    if not installed:
        yield
        return
    kubectl("scale", name, "--replicas=0", namespace=SYSTEM)
    pods = "app.kubernetes.io/name=kappa,app.kubernetes.io/component=operator"
    kubectl("wait", "pods", "-l", pods, "--for=delete", "--timeout=60s", namespace=SYSTEM)
    yield
    kubectl("scale", name, f"--replicas={installed}", namespace=SYSTEM)
    kubectl("rollout", "status", name, "--timeout=60s", namespace=SYSTEM)


@pytest.fixture(scope="session")
def find_gateway(kubectl: Kubectl, release: Release, eventually: Eventually) -> Callable[[], str]:
    """`http://host:port` of the installed chart's gateway: its cluster address where this machine reaches that, else a
    node's. To be asked again after an installation."""

    def find() -> str:
        given = os.environ.get("KAPPA_TEST_GATEWAY_URL")
        if given:
            return given.rstrip("/")
        service = kubectl.json("get", "service", f"{RELEASE}-gateway", namespace=SYSTEM)["spec"]
        port = service["ports"][0]
        nodes = kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.addresses[?(@.type=='InternalIP')].address}")
        places = [(service["clusterIP"], port["port"])]
        places += [(node, port["nodePort"]) for node in nodes.split() if "nodePort" in port]

        def reached() -> str:
            for host, number in places:
                try:
                    socket.create_connection((host, number), timeout=1).close()
                except OSError:
                    continue
                return f"http://{host}:{number}"
            raise AssertionError(f"the gateway is at none of {places}; name its address: KAPPA_TEST_GATEWAY_URL")

        return eventually(reached, timeout=15)

    return find


@pytest.fixture
def gateway_url(find_gateway: Callable[[], str]) -> str:
    """`http://host:port` of the installed chart's gateway."""
    return find_gateway()
