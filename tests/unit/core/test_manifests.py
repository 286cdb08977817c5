"""Function → Deployment: each detail that somebody relies on."""

from typing import Any

import pytest

from kappa_core import manifests, names, wire
from kappa_core.agent_config import AgentConfig
from kappa_core.function import Function
from kappa_core.manifests import ManifestError, Platform, RuntimeImage

PLATFORM = Platform(runtimes={"python3.13": RuntimeImage(image="kappa/runtime-python:dev")})
INLINE = {"inline": "def handler(event, context):\n    return event\n"}


def function(**spec: Any) -> Function:
    if "image" not in spec.get("code", {}):
        spec = {"runtime": "python3.13", "handler": "main.handler", "code": INLINE, **spec}
    return Function.model_validate(
        {"metadata": {"name": "hello", "namespace": "team-a", "uid": "u-1", "generation": 3}, "spec": spec}
    )


def template(**spec: Any) -> dict[str, Any]:
    return manifests.deployment(function(**spec), PLATFORM)["spec"]["template"]


def container(name: str = "function", **spec: Any) -> dict[str, Any]:
    containers = {c["name"]: c for c in template(**spec)["spec"]["containers"]}
    return containers[name]


def env(name: str = "function", **spec: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container(name, **spec)["env"]}


def kubelet_expands(value: str) -> str:
    """What the kubelet makes of a value with no variable defined before it: `$$` becomes `$`."""
    return value.replace("$$", "$")


def test_it_is_owned_by_the_function_and_found_by_its_label() -> None:
    made = manifests.deployment(function(), PLATFORM)
    assert made["metadata"]["name"] == "fn-hello"
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "kappa.run/v1alpha1",
            "kind": "Function",
            "name": "hello",
            "uid": "u-1",
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    assert made["spec"]["selector"]["matchLabels"] == {names.LABEL_FUNCTION: "hello"}
    assert made["spec"]["template"]["metadata"]["labels"][names.LABEL_FUNCTION] == "hello"


def test_replicas_are_left_to_scaling() -> None:
    assert "replicas" not in manifests.deployment(function(scaling={"minReplicas": 3}), PLATFORM)["spec"]


@pytest.mark.parametrize(
    "change",
    [
        {"scaling": {"minReplicas": 2, "maxReplicas": 50, "keepWarm": "1h"}},
        {"async": {"maxAttempts": 1, "maxAge": "1h"}},
    ],
)
def test_settings_of_scaling_and_events_roll_no_pods(change: dict[str, Any]) -> None:
    assert template(**change) == template()


@pytest.mark.parametrize(
    "change",
    [
        {"code": {"inline": "def handler(event, context): return 2\n"}},
        {"handler": "main.other"},
        {"memory": "256Mi"},
        {"cpu": "500m"},
        {"timeout": "31s"},
        {"concurrency": 2},
        {"env": [{"name": "A", "value": "b"}]},
        {"serviceAccountName": "robot"},
        {"podTemplate": {"annotations": {"a": "b"}}},
    ],
)
def test_what_pods_see_rolls_them(change: dict[str, Any]) -> None:
    revision = template()["metadata"]["annotations"][names.ANNOTATION_REVISION]
    assert template(**change)["metadata"]["annotations"][names.ANNOTATION_REVISION] != revision


def test_new_code_in_a_config_map_rolls_pods() -> None:
    mounted = function(code={"configMap": {"name": "code"}})
    one, other = (manifests.deployment(mounted, PLATFORM, code_hash=digest) for digest in ("a", "b"))
    assert manifests.revision(one) != manifests.revision(other)
    assert one["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_CODE_HASH] == "a"


def test_pods_pass_the_restricted_level() -> None:
    for spec in ({}, {"code": {"image": {"ref": "team/app:1"}}}):
        pod = template(**spec)["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in pod["containers"]:
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_security_context_of_ones_own_overrides_field_by_field_and_null_takes_away() -> None:
    given = {"runAsUser": None, "fsGroup": 2000, "seccompProfile": {"type": "Unconfined"}}
    security = template(podTemplate={"securityContext": given})["spec"]["securityContext"]
    assert security == {
        "runAsNonRoot": True,
        "runAsGroup": 1000,
        "fsGroup": 2000,
        "seccompProfile": {"type": "Unconfined"},
    }


def test_no_token_and_no_service_links_unless_asked_for() -> None:
    assert template()["spec"]["automountServiceAccountToken"] is False
    assert template()["spec"]["enableServiceLinks"] is False
    assert "serviceAccountName" not in template()["spec"]
    named = template(serviceAccountName="robot")["spec"]
    assert (named["automountServiceAccountToken"], named["serviceAccountName"]) == (True, "robot")


def test_the_kubelet_waits_longer_than_the_agent_and_the_agent_longer_than_the_timeout() -> None:
    made = function(timeout="90s500ms")
    drain = manifests.agent_config(made, PLATFORM).drain_timeout
    grace = manifests.deployment(made, PLATFORM)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 90.5 < drain < grace - wire.KEPT_DRAIN_SECONDS


def test_a_web_server_has_no_agent_that_would_keep_answers() -> None:
    image = {"code": {"image": {"ref": "web:1", "protocol": "http"}}, "timeout": "20s"}
    assert template(**image)["spec"]["terminationGracePeriodSeconds"] == 30


def test_inline_code_arrives_as_it_was_written() -> None:
    code = "PRICE = '$(HOME) $$ $5 $'\ndef handler(event, context): return PRICE\n"
    assert kubelet_expands(env(code={"inline": code})["KAPPA_CODE_INLINE"]) == code


def test_the_agent_reads_back_what_was_meant() -> None:
    made = function(memory="200Mi", timeout="7s", concurrency=4, code={"inline": "x = 'a$b'"})
    variables = manifests.deployment(made, PLATFORM)["spec"]["template"]["spec"]["containers"][0]["env"]
    seen = {v["name"]: kubelet_expands(v["value"]) for v in variables if "value" in v}
    assert AgentConfig.from_env(seen) == manifests.agent_config(made, PLATFORM)


def test_the_pod_learns_its_name() -> None:
    assert env()["KAPPA_POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_the_users_variables_keep_kubernetes_notation() -> None:
    variables = [
        {"name": "A", "value": "x"},
        {"name": "B", "value": "$(A)-$$"},
        {"name": "EMPTY"},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    made = env(env=variables)
    assert made["B"] == "$(A)-$$"
    assert made["EMPTY"] == ""
    assert made["S"] == {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}
    assert made["IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_env_from_is_passed_on() -> None:
    sources = [{"secretRef": {"name": "s"}, "prefix": "S_"}, {"configMapRef": {"name": "c", "optional": True}}]
    assert container(envFrom=sources)["envFrom"] == sources


def test_memory_is_request_and_limit_and_cpu_only_where_given() -> None:
    assert container()["resources"] == {"requests": {"memory": "128Mi"}, "limits": {"memory": "128Mi"}}
    both = container(memory="1Gi", cpu="250m")["resources"]
    assert both["requests"] == both["limits"] == {"memory": "1Gi", "cpu": "250m"}


def test_config_map_code_is_mounted_read_only_at_the_task_root() -> None:
    made = template(code={"configMap": {"name": "code"}})["spec"]
    (mount,) = made["containers"][0]["volumeMounts"]
    assert mount == {"name": "kappa-code", "mountPath": names.TASK_ROOT, "readOnly": True}
    assert made["volumes"] == [{"name": "kappa-code", "configMap": {"name": "code"}}]


def test_an_archive_travels_by_url_and_hash() -> None:
    made = env(code={"archive": {"url": "https://example.com/a.zip", "sha256": "0" * 64}})
    assert made["KAPPA_CODE_ARCHIVE_URL"] == "https://example.com/a.zip"
    assert made["KAPPA_CODE_ARCHIVE_SHA256"] == "0" * 64


def test_a_lambda_image_gets_the_agent_beside_it_and_lambdas_variables() -> None:
    spec: dict[str, Any] = {"code": {"image": {"ref": "team/app:1", "args": ["app.handler"]}}}
    made = template(**spec)["spec"]
    agent, own = made["containers"]
    assert (agent["name"], own["name"]) == ("agent", "function"), "the agent listens before the runtime client starts"
    assert agent["lifecycle"]["postStart"]["exec"]["command"][-1] == "kappa_runtime.post_start"
    assert made["shareProcessNamespace"] is True
    assert own["image"] == "team/app:1"
    assert own["args"] == ["app.handler"]
    assert agent["image"] == "kappa/runtime-python:dev"
    variables = env(**spec)
    assert variables["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001"
    assert kubelet_expands(variables["AWS_LAMBDA_FUNCTION_VERSION"]) == "$LATEST"
    assert env("agent", **spec)["KAPPA_SIDECAR"] == "1"
    assert "readinessProbe" not in own
    assert agent["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_lambda_image_is_stopped_only_when_the_agent_has_drained() -> None:
    hook = container(code={"image": {"ref": "team/app:1"}})["lifecycle"]["preStop"]
    assert hook == {"httpGet": {"path": "/drain", "port": names.AGENT_PORT}}


def test_an_http_image_stands_alone_on_its_port() -> None:
    made = template(code={"image": {"ref": "team/web:1", "protocol": "http", "port": 3000}}, concurrency=50)
    (web,) = made["spec"]["containers"]
    assert web["readinessProbe"]["tcpSocket"] == {"port": 3000}
    assert {"name": "PORT", "value": "3000"} in web["env"]
    notes = made["metadata"]["annotations"]
    assert (notes[names.ANNOTATION_PORT], notes[names.ANNOTATION_PROTOCOL]) == ("3000", "http")
    assert notes[names.ANNOTATION_CONCURRENCY] == "50"


def test_the_pod_template_is_merged_and_kappas_own_labels_win() -> None:
    given = {
        "labels": {"team": "a"},
        "annotations": {"note": "b", names.ANNOTATION_PORT: "1"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/data"}],
        "imagePullSecrets": [{"name": "registry"}],
        "runtimeClassName": "gvisor",
        "priorityClassName": "high",
    }
    made = template(podTemplate=given)
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["annotations"]["note"] == "b"
    assert made["metadata"]["annotations"][names.ANNOTATION_PORT] == "8080"
    for key in ("nodeSelector", "tolerations", "topologySpreadConstraints", "volumes", "imagePullSecrets"):
        assert made["spec"][key] == given[key]
    assert made["spec"]["affinity"] == {"nodeAffinity": {}}
    assert (made["spec"]["runtimeClassName"], made["spec"]["priorityClassName"]) == ("gvisor", "high")
    assert made["spec"]["containers"][0]["volumeMounts"] == given["volumeMounts"]


def test_a_rolling_update_never_goes_below_what_runs() -> None:
    strategy = manifests.deployment(function(), PLATFORM)["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_an_unknown_runtime_names_the_known_ones() -> None:
    platform = Platform(runtimes={"python3.13": RuntimeImage(image="i"), "nodejs20": RuntimeImage(image="j")})
    with pytest.raises(
        ManifestError, match=r"no runtime 'ruby3'.*Known runtimes: nodejs20, python3\.13\..*code\.image"
    ):
        manifests.deployment(function(runtime="ruby3"), platform)


def test_a_lambda_image_needs_an_agent_image() -> None:
    with pytest.raises(ManifestError, match="agent's image"):
        manifests.deployment(function(code={"image": {"ref": "team/app:1"}}), Platform())


def test_the_same_function_renders_the_same_text() -> None:
    assert manifests.deployment(function(), PLATFORM) == manifests.deployment(function(), PLATFORM)
