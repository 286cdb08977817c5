"""The operator as a process beside a real cluster, in namespaces of its own.

It serves only Functions that name it (the label `kappa.run/operator`), so one that is installed does not mind.
"""

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_process import RUNTIME, Gateway, Operator

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = "functions.kappa.run"
GOOD = "def handler(event, context):\n    return 'ok'\n"


@pytest.fixture(scope="module", autouse=True)
def crd(kubectl: Any) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", f"crd/{FUNCTIONS}", "--timeout=30s")


@pytest.fixture(scope="module")
def shared(make_namespace: Callable[[], str]) -> str:
    """One namespace for the tests that can share one operator: each uses names of its own."""
    return make_namespace()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def operator(
    shared: str, kubeconfig: str, gateway: Gateway, eventually: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    log = tmp_path_factory.mktemp("operator") / "log"
    process = Operator(shared, kubeconfig, log, GATEWAYS=json.dumps([gateway.url]))
    eventually(lambda: process.said("demand stream connected"))
    yield process
    assert process.stop() == 0, log.read_text()


def function(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    if "image" not in spec.get("code", {}):
        spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": GOOD}, **spec}
    return {
        "apiVersion": "kappa.run/v1alpha1",
        "kind": "Function",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kappa.run/operator": namespace}},
        "spec": spec,
    }


class Cluster:
    """What a user sees of one namespace."""

    def __init__(self, kubectl: Any, namespace: str) -> None:
        self.kubectl, self.namespace = kubectl, namespace

    def apply(self, name: str, **spec: Any) -> None:
        self.kubectl.apply(function(self.namespace, name, **spec))

    def function(self, name: str) -> dict[str, Any]:
        got: dict[str, Any] = self.kubectl.json("get", FUNCTIONS, name, namespace=self.namespace)
        return got

    def condition(self, name: str, kind: str = "Ready") -> dict[str, Any]:
        conditions = self.function(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def condition_for(self, name: str, reason: str) -> dict[str, Any] | None:
        """The Ready condition, once it has this reason."""
        condition = self.condition(name)
        return condition if condition.get("reason") == reason else None

    def deployment(self, name: str) -> dict[str, Any]:
        got: dict[str, Any] = self.kubectl.json("get", "deployment", f"fn-{name}", namespace=self.namespace)
        return got

    def pods(self, name: str) -> list[dict[str, Any]]:
        got: list[dict[str, Any]] = self.kubectl.items(
            "get", "pods", "-l", f"kappa.run/function={name}", namespace=self.namespace
        )
        return got

    def events(self, name: str) -> list[str]:
        events = self.kubectl.items("get", "events", namespace=self.namespace)
        return [event["reason"] for event in events if event["involvedObject"]["name"] == name]


@pytest.fixture
def cluster(kubectl: Any, shared: str, operator: Operator) -> Cluster:
    return Cluster(kubectl, shared)


def test_a_function_is_ready_its_code_tried_and_the_pod_let_go(cluster: Cluster, eventually: Any) -> None:
    cluster.apply("good")
    eventually(lambda: cluster.condition("good").get("status") == "True", 10)
    eventually(lambda: cluster.condition("good", "CodeAvailable").get("reason") == "CodeLoaded")
    eventually(lambda: cluster.deployment("good")["spec"]["replicas"] == 0)
    eventually(lambda: cluster.function("good")["status"]["replicas"] == 0)
    eventually(lambda: "Deployed" in cluster.events("good"))
    status = cluster.function("good")["status"]
    assert status["observedGeneration"] == 1
    assert status["url"].endswith(f"/fn/{cluster.namespace}/good")
    assert status["coldStart"]["path"] == "Deployment"


def test_it_leaves_no_mark_on_users_objects(cluster: Cluster, eventually: Any) -> None:
    cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "marks", "namespace": cluster.namespace},
            "data": {"main.py": GOOD},
        }
    )
    cluster.apply("unmarked", code={"configMap": {"name": "marks"}})
    eventually(lambda: cluster.condition("unmarked", "CodeAvailable").get("reason") == "CodeLoaded")
    config_map = cluster.kubectl.json("get", "configmap", "marks", namespace=cluster.namespace)
    for item in (cluster.function("unmarked"), config_map, cluster.deployment("unmarked")):
        assert "finalizers" not in item["metadata"]
        assert not [key for key in item["metadata"].get("annotations", {}) if "kopf" in key]


IMAGE = {"ref": "localhost:1/no/such:image", "protocol": "http"}
BROKEN: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "unknown-runtime": ({"runtime": "cobol85"}, "UnknownRuntime", ["'cobol85'", "python3.13"]),
    "no-config-map": ({"code": {"configMap": {"name": "absent"}}}, "ConfigMapNotFound", ["'absent'", "Create it"]),
    "no-image": ({"code": {"image": IMAGE}}, "ImagePullFailed", ["localhost:1/no/such:image", "imagePullSecrets"]),
    "no-module": ({"code": {"inline": "import nonsense\n" + GOOD}}, "InitFailed", ["No module named 'nonsense'"]),
    "no-handler": ({"handler": "main.absent"}, "InitFailed", ["absent"]),
    "bad-syntax": ({"code": {"inline": "def handler(:\n"}}, "InitFailed", ["Syntax"]),
    "no-secret": (
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}]},
        "ConfigMissing",
        ['secret "absent" not found'],
    ),
    "no-config-key": (
        {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "k"}}}]},
        "ConfigMissing",
        ["spec.env[0] (A)", "'absent'"],
    ),
    "not-restricted": (
        {"podTemplate": {"containerSecurityContext": {"allowPrivilegeEscalation": True}}},
        "PodRejected",
        ["allowPrivilegeEscalation"],
    ),
    "bad-template": ({"podTemplate": {"tolerations": [{"operator": "Sometimes"}]}}, "InvalidSpec", ["tolerations"]),
    "too-big": ({"memory": "100Ti"}, "Unschedulable", ["Insufficient memory"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_shows_within_seconds(cluster: Cluster, eventually: Any, name: str) -> None:
    spec, reason, words = BROKEN[name]
    cluster.apply(name, **spec)
    condition = eventually(lambda: cluster.condition_for(name, reason))
    assert condition["status"] == "False"
    for word in words:
        assert word in condition["message"]
    eventually(lambda: reason in cluster.events(name))
    cluster.kubectl("delete", FUNCTIONS, name, namespace=cluster.namespace)


def test_a_function_heals_when_what_was_missing_comes(cluster: Cluster, eventually: Any) -> None:
    cluster.apply("healing", code={"configMap": {"name": "late"}})
    eventually(lambda: cluster.condition("healing").get("reason") == "ConfigMapNotFound")
    cluster.kubectl("create", "configmap", "late", f"--from-literal=main.py={GOOD}", namespace=cluster.namespace)
    eventually(lambda: cluster.condition("healing").get("status") == "True", 5)
    eventually(lambda: "Recovered" in cluster.events("healing"))


def test_new_code_in_a_config_map_rolls_the_pods(cluster: Cluster, eventually: Any) -> None:
    cluster.kubectl("create", "configmap", "rolling", f"--from-literal=main.py={GOOD}", namespace=cluster.namespace)
    cluster.apply("rolling", code={"configMap": {"name": "rolling"}}, scaling={"minReplicas": 1})
    first = eventually(lambda: {p["metadata"]["uid"] for p in cluster.pods("rolling")})
    patch = json.dumps({"data": {"main.py": GOOD + "# new\n"}})
    cluster.kubectl("patch", "configmap", "rolling", "--type=merge", "-p", patch, namespace=cluster.namespace)
    eventually(lambda: (now := {p["metadata"]["uid"] for p in cluster.pods("rolling")}) and not now & first, 60)
    cluster.kubectl("delete", FUNCTIONS, "rolling", namespace=cluster.namespace)


def test_drift_is_mended(cluster: Cluster, eventually: Any) -> None:
    cluster.apply("drift")
    eventually(lambda: cluster.condition("drift", "CodeAvailable").get("reason") == "CodeLoaded")
    eventually(lambda: cluster.deployment("drift")["spec"]["replicas"] == 0)
    uid = cluster.deployment("drift")["metadata"]["uid"]
    cluster.kubectl("delete", "deployment", "fn-drift", namespace=cluster.namespace)
    eventually(lambda: cluster.deployment("drift")["metadata"]["uid"] != uid, 5)
    assert cluster.deployment("drift")["spec"]["replicas"] == 0, "it comes back as it was scaled"
    cluster.kubectl("set", "image", "deployment/fn-drift", "function=evil:1", namespace=cluster.namespace)
    image = "{.spec.template.spec.containers[0].image}"
    get = ("get", "deployment", "fn-drift", "-o", f"jsonpath={image}")
    eventually(lambda: cluster.kubectl(*get, namespace=cluster.namespace) == RUNTIME, 5)
    cluster.kubectl("scale", "deployment/fn-drift", "--replicas=3", namespace=cluster.namespace)
    eventually(lambda: cluster.deployment("drift")["spec"]["replicas"] == 0, 5)
    cluster.kubectl("label", "deployment/fn-drift", "kappa.run/function-", namespace=cluster.namespace)
    eventually(lambda: cluster.deployment("drift")["metadata"]["labels"].get("kappa.run/function") == "drift", 5)


def test_somebody_elses_deployment_stays_theirs(cluster: Cluster, eventually: Any) -> None:
    cluster.kubectl("create", "deployment", "fn-taken", "--image=theirs:1", "--replicas=0", namespace=cluster.namespace)
    cluster.apply("taken")
    eventually(lambda: cluster.condition("taken").get("reason") == "DeploymentConflict")
    theirs = cluster.deployment("taken")
    assert theirs["spec"]["template"]["spec"]["containers"][0]["image"] == "theirs:1"
    assert "ownerReferences" not in theirs["metadata"]
    cluster.kubectl("delete", FUNCTIONS, "taken", namespace=cluster.namespace)
    cluster.kubectl("delete", "deployment", "fn-taken", namespace=cluster.namespace)


def test_demand_brings_pods_and_its_end_takes_them_away(cluster: Cluster, gateway: Gateway, eventually: Any) -> None:
    cluster.apply("busy", scaling={"keepWarm": "1s", "maxReplicas": 3})
    eventually(lambda: cluster.condition("busy", "CodeAvailable").get("reason") == "CodeLoaded")
    eventually(lambda: cluster.deployment("busy")["spec"]["replicas"] == 0)
    demand = {"namespace": cluster.namespace, "name": "busy"}
    gateway.say({**demand, "waiting": 1})
    eventually(lambda: cluster.deployment("busy")["spec"]["replicas"] == 1, 2, 0.02)
    gateway.say({**demand, "in_flight": 9})
    eventually(lambda: cluster.deployment("busy")["spec"]["replicas"] == 3, 2)
    gateway.say()
    eventually(lambda: cluster.deployment("busy")["spec"]["replicas"] == 0, 10)


def test_before_some_pods_go_the_busy_one_is_marked(cluster: Cluster, gateway: Gateway, eventually: Any) -> None:
    cluster.apply("sparing", scaling={"keepWarm": "0s", "maxReplicas": 2})
    eventually(lambda: cluster.condition("sparing").get("status") == "True")
    demand = {"namespace": cluster.namespace, "name": "sparing"}
    gateway.say({**demand, "in_flight": 2})
    # Both ready: one that is still starting goes first, whatever it costs.
    eventually(lambda: cluster.deployment("sparing")["status"].get("readyReplicas") == 2)
    busy = cluster.pods("sparing")[0]["metadata"]["name"]
    gateway.say({**demand, "in_flight": 1, "pods": {busy: 1}})
    eventually(lambda: [pod["metadata"]["name"] for pod in cluster.pods("sparing")] == [busy], 60)
    gateway.say()


def test_deleting_a_function_leaves_nothing(cluster: Cluster, eventually: Any) -> None:
    cluster.apply("gone", scaling={"minReplicas": 1})
    eventually(lambda: cluster.pods("gone"))
    cluster.kubectl("delete", FUNCTIONS, "gone", namespace=cluster.namespace)
    selector = ("-l", "kappa.run/function=gone")
    everything = "deployments,replicasets,pods"
    eventually(lambda: not cluster.kubectl.items("get", everything, *selector, namespace=cluster.namespace), 60)


def test_the_longest_name_works(cluster: Cluster, eventually: Any) -> None:
    name = "n" * 63
    cluster.apply(name)
    eventually(lambda: cluster.condition(name, "CodeAvailable").get("reason") == "CodeLoaded")
    cluster.kubectl("delete", FUNCTIONS, name, namespace=cluster.namespace)


def test_made_anew_under_the_same_name_it_works(cluster: Cluster, eventually: Any) -> None:
    for _ in range(3):
        cluster.apply("again")
        eventually(lambda: cluster.condition("again").get("status") == "True", 10)
        cluster.kubectl("delete", FUNCTIONS, "again", namespace=cluster.namespace)


def test_health_and_metrics(operator: Operator, eventually: Any) -> None:
    assert operator.get("/healthz") == (200, "ok\n")
    eventually(lambda: operator.get("/readyz") == (200, "leading\n"))
    metrics = operator.get("/metrics")[1]
    for name in ("leader 1.0", "demand_streams 1.0", "reconcile_duration_seconds_count", "queue_depth", "scale_total"):
        assert f"kappa_operator_{name}" in metrics


def test_the_lease_passes_on_quickly_when_given_up_and_in_time_when_lost(
    namespace: str, kubectl: Any, kubeconfig: str, eventually: Any, tmp_path: Path
) -> None:
    times = {"LEASE_DURATION": "4", "RENEW_DEADLINE": "3", "RETRY_PERIOD": "0.5", "VERIFY_CONCURRENCY": "0"}
    cluster = Cluster(kubectl, namespace)
    one = Operator(namespace, kubeconfig, tmp_path / "one", "one", **times)
    others: list[Operator] = []
    try:
        eventually(lambda: one.said("leading"))
        two = Operator(namespace, kubeconfig, tmp_path / "two", "two", **times)
        others.append(two)
        eventually(lambda: two.said("standing by"))
        eventually(lambda: two.get("/readyz") == (200, "standing by\n"))
        assert one.stop() == 0
        eventually(lambda: two.said("leading"), 3)
        three = Operator(namespace, kubeconfig, tmp_path / "three", "three", **times)
        others.append(three)
        eventually(lambda: three.said("standing by"))
        two.stop(signal.SIGKILL)
        cluster.apply("orphan")
        eventually(lambda: three.said("leading"), 10)
        eventually(lambda: cluster.condition("orphan").get("status") == "True", 10)
        patch = json.dumps({"spec": {"holderIdentity": "thief"}})
        kubectl("patch", "lease", "kappa-operator", "--type=merge", "-p", patch, namespace=namespace)
        assert three.process.wait(10) == 1, "it stops at once, and not as if all were well"
        assert three.said("leading no more, stopping")
    finally:
        for process in (one, *others):
            process.stop()


def test_a_restart_rolls_no_pods_and_sees_what_happened_meanwhile(
    namespace: str, kubectl: Any, kubeconfig: str, eventually: Any, tmp_path: Path
) -> None:
    cluster = Cluster(kubectl, namespace)
    first = Operator(namespace, kubeconfig, tmp_path / "first")
    try:
        cluster.apply("kept", scaling={"minReplicas": 1})
        cluster.apply("deleted")
        eventually(lambda: cluster.condition("kept").get("reason") == "Running", 60)
        before = cluster.deployment("kept")
    finally:
        assert first.stop() == 0
    cluster.apply("made")
    kubectl("delete", FUNCTIONS, "deleted", namespace=namespace)
    kubectl("delete", "deployment", "fn-made", "--ignore-not-found", namespace=namespace)
    started = time.monotonic()
    second = Operator(namespace, kubeconfig, tmp_path / "second")
    try:
        eventually(lambda: cluster.condition("made").get("status") == "True", 15)
        assert time.monotonic() - started < 15
        after = cluster.deployment("kept")
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        eventually(
            lambda: not kubectl.items("get", "deployments", "-l", "kappa.run/function=deleted", namespace=namespace)
        )
    finally:
        assert second.stop() == 0


def chart_rules(block: str) -> list[dict[str, Any]]:
    """A block of RBAC rules as the chart has it, for the Lease's default name."""
    text = (ROOT / "charts/kappa/templates/_rules.tpl").read_text()
    rules = text.split(f'define "kappa.{block}"')[1].split("-}}", 1)[1].split("{{- end")[0]
    parsed: list[dict[str, Any]] = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "kappa", rules))
    return parsed


def test_the_charts_rights_are_enough(
    namespace: str, kubectl: Any, kubeconfig: str, gateway: Gateway, eventually: Any, tmp_path: Path
) -> None:
    rules = [*chart_rules("operatorRules"), *chart_rules("operatorOwnRules")]
    meta = {"name": "operator", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    )
    config = kubectl.json("config", "view", "--raw", "--minify", "--flatten")
    config["users"][0]["user"] = {"token": kubectl("create", "token", "operator", namespace=namespace)}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    cluster = Cluster(kubectl, namespace)
    limited = Operator(namespace, str(tmp_path / "kubeconfig"), tmp_path / "log", GATEWAYS=json.dumps([gateway.url]))
    try:
        kubectl("create", "configmap", "code", f"--from-literal=main.py={GOOD}", namespace=namespace)
        cluster.apply("modest", code={"configMap": {"name": "code"}}, scaling={"keepWarm": "0s"})
        eventually(lambda: cluster.condition("modest", "CodeAvailable").get("reason") == "CodeLoaded", 40)
        demand = {"namespace": namespace, "name": "modest"}
        gateway.say({**demand, "in_flight": 2})
        eventually(lambda: cluster.deployment("modest")["status"].get("readyReplicas") == 2)
        busy = cluster.pods("modest")[0]["metadata"]["name"]
        gateway.say({**demand, "in_flight": 1, "pods": {busy: 1}})
        eventually(lambda: cluster.deployment("modest")["spec"]["replicas"] == 1)
        gateway.say()
        eventually(lambda: "Deployed" in cluster.events("modest"))
    finally:
        gateway.say()
        assert limited.stop() == 0
    assert "forbidden" not in (tmp_path / "log").read_text().lower()


def test_without_a_cluster_it_says_so(tmp_path: Path, namespace: str) -> None:
    absent = Operator(namespace, str(tmp_path / "no-kubeconfig"), tmp_path / "log")
    assert absent.process.wait(20) == 1
    text = (tmp_path / "log").read_text()
    absent.stop()
    assert "no way to the cluster" in text
    assert "Traceback" not in text
