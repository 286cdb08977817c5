"""The fixtures of all cluster tests: a cluster, kubectl, a fresh namespace, and the installed chart.

The cluster is the one that `KUBECONFIG` names. If it is not set and `../shared/cluster/up` exists, that cluster is
started. Images come from `KAPPA_TEST_REGISTRY` (default `kappa`) with the tag `KAPPA_TEST_TAG` (default `dev`). The
queue is the chart's own NATS; `KAPPA_TEST_NATS_IMAGE` names its image where the official one cannot be pulled (on the
cluster of `../shared/cluster` that is the default, made by `make nats-image`). Where namespaces cannot be made,
`KAPPA_TEST_NAMESPACES=a,b,c` names some that exist: tests then use those, and the chart serves those alone. That needs
one worker (`make test-cluster WORKERS=0`).

Workers of pytest-xdist share one installation of the chart: the first that needs it installs it. Tests that stop,
restart or kill parts of it are in files marked `alone`: no other test of `release/` and `chaos/` runs meanwhile. Tests
of this folder itself bring an operator of their own or need none, and go on. Only files marked `alone("cluster")` keep
them out too: their tests change the CRD, or assert how fast something is.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kubectl import CommandFailed, Kubectl, find_program, run
from waiting import eventually_sync
from workers import Turn, Use, once
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHARED_CLUSTER = ROOT.parent / "shared" / "cluster" / "up"
RELEASE = "kappa"
SYSTEM = "kappa-system"
REGISTRY = os.environ.get("KAPPA_TEST_REGISTRY", "kappa")
TAG = os.environ.get("KAPPA_TEST_TAG", "dev")
NATS_IMAGE = os.environ.get("KAPPA_TEST_NATS_IMAGE", "kappa-test/nats:dev" if SHARED_CLUSTER.exists() else "")
IMPATIENT = {"eventRetryDelays": [0.5, 1], "eventFirstBackoff": 0.2, "eventLongestBackoff": 2, "queueLease": 5}
"""Settings of the gateway with which tests of asynchronous invocations need no minutes."""
INSTALLATION, CLUSTER = pytest.StashKey[Turn](), pytest.StashKey[Turn]()
NAMESPACES = [name for name in os.environ.get("KAPPA_TEST_NAMESPACES", "").split(",") if name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are `alone` come first: meanwhile other workers have the tests that need no installation; those that
    need the whole cluster come when others have fewest. What one worker does as a whole begins before what any worker
    can do."""

    def rank(item: pytest.Item) -> tuple[int, bool, bool]:
        order = (Use.ALONE, None, Use.SHARED)
        for_all = _scope(item.path, item.nodeid) == item.nodeid
        return order.index(_use(item)), _use_of_cluster(item) is Use.ALONE, for_all

    items.sort(key=rank)


class Scheduling(LoadScopeScheduling):
    """All tests that are `alone` go to one worker, those of a file with fixtures of its own to one, others to any."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(ROOT / nodeid.partition("::")[0], nodeid)


def _scope(file: Path, nodeid: str) -> str:
    """Tests of the same scope go to the same worker. The scheduler knows no marks, so the file's text must say it."""
    source = _source(file)
    return "alone" if "pytest.mark.alone" in source else file.name if 'scope="module"' in source else nodeid


@cache
def _source(file: Path) -> str:
    return file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A worker keeps its turn with the installation across consecutive tests with the same use, and so across the
    fixtures they share."""
    folder, stash = _workers_folder(item.config), item.config.stash
    installation = stash.setdefault(INSTALLATION, Turn(folder, "installation"))
    cluster = stash.setdefault(CLUSTER, Turn(folder, "cluster"))
    installation.take(_use(item))
    cluster.take(_use_of_cluster(item))
    try:
        return (yield)
    finally:
        cluster.end()
        if nextitem is None or _use(nextitem) != _use(item):
            installation.end()


def _use(item: pytest.Item) -> Use | None:
    """How a test uses the installation."""
    if item.get_closest_marker("alone"):
        return Use.ALONE
    return Use.SHARED if HERE / "release" in item.path.parents else None


def _use_of_cluster(item: pytest.Item) -> Use | None:
    """How a test uses the cluster. Who has the installation alone need not say that others may use the cluster."""
    if marker := item.get_closest_marker("alone"):
        return Use.ALONE if marker.args else None
    return Use.SHARED


def _workers_folder(config: pytest.Config) -> Path:
    """A folder that all workers of this run see, and no other run."""
    own = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return own.parent if hasattr(config, "workerinput") else own


@pytest.fixture(scope="session")
def workers_folder(request: pytest.FixtureRequest) -> Path:
    return _workers_folder(request.config)


@pytest.fixture(scope="session")
def kubeconfig(workers_folder: Path) -> str:
    """The cluster under test. If there is none, it fails and says what to do."""
    path = os.environ.get("KUBECONFIG", "")
    if not path and SHARED_CLUSTER.exists():
        path = once(workers_folder, "cluster", start_shared_cluster)
    if not path:
        pytest.fail(
            "the cluster tests need a Kubernetes cluster: set KUBECONFIG to one that has Kappa's images "
            "(kind create cluster && make images && kind load docker-image kappa/operator:dev kappa/gateway:dev "
            "kappa/runtime-python:dev), or leave them out: pytest -m 'not cluster'",
            pytrace=False,
        )
    os.environ["KUBECONFIG"] = path
    try:
        run(find_program("kubectl"), "--kubeconfig", path, "version", "--request-timeout=10s")
    except CommandFailed as error:
        pytest.fail(f"the cluster of KUBECONFIG={path} does not answer:\n{error}", pytrace=False)
    return path


def start_shared_cluster() -> str:
    """The path of its kubeconfig. If the cluster is already up, `up` rewrites kube-proxy's configuration, and
    kube-proxy exits a moment later because of that: a second `up` starts it again."""
    path = run(str(SHARED_CLUSTER), timeout=300).strip().splitlines()[-1]
    node = Kubectl(path)("get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}")

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
            eventually_sync(proxy_runs, "kube-proxy's health port")
            break
        time.sleep(0.2)
    return path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: str) -> Iterator[Kubectl]:
    kubectl = Kubectl(kubeconfig)
    yield kubectl
    kubectl.close()


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
        return run(find_program("helm"), *args, "--kubeconfig", self.kubeconfig, "--namespace", SYSTEM, timeout=timeout)

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
        return not run(find_program("helm"), "version", "--short").startswith("v3")


@pytest.fixture(scope="session")
def release(kubeconfig: str, workers_folder: Path) -> Release:
    """The chart, installed from this tree as the release `kappa` in `kappa-system`, once for all workers;
    `KAPPA_TEST_RELEASE=keep` takes the one that is installed as it is."""
    installed = Release(kubeconfig)

    def install() -> str:
        installed.install()
        return RELEASE

    if os.environ.get("KAPPA_TEST_RELEASE") != "keep":
        once(workers_folder, "release", install)
    return installed


@pytest.fixture(scope="session")
def find_gateway(kubectl: Kubectl, release: Release) -> Callable[[], str]:
    """`http://host:port` of the installed chart's gateway: its cluster address where this machine reaches that, else a
    node's. To be asked again after an installation."""

    def find() -> str:
        given = os.environ.get("KAPPA_TEST_GATEWAY_URL")
        if given:
            return given.rstrip("/")
        service = kubectl.get("services", f"{RELEASE}-gateway", namespace=SYSTEM)["spec"]
        port = service["ports"][0]
        addresses = [each for node in kubectl.items("nodes") for each in node["status"]["addresses"]]
        places = [(service["clusterIP"], port["port"])]
        if "nodePort" in port:
            places += [(each["address"], port["nodePort"]) for each in addresses if each["type"] == "InternalIP"]

        def reached() -> str:
            for host, number in places:
                try:
                    socket.create_connection((host, number), timeout=1).close()
                except OSError:
                    continue
                return f"http://{host}:{number}"
            raise AssertionError(
                f"the gateway does not answer at any of {places}; name its address: KAPPA_TEST_GATEWAY_URL"
            )

        return eventually_sync(reached)

    return find


@pytest.fixture
def gateway_url(find_gateway: Callable[[], str]) -> str:
    """`http://host:port` of the installed chart's gateway."""
    return find_gateway()
