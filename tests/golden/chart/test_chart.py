"""The chart: golden renders of some sets of values, what values it refuses, and that its settings exist.

`UPDATE_GOLDEN=1 pytest tests/golden/chart` updates the renders; read the difference before you commit it.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nats_server
import pytest
import yaml

from kappa_gateway.pods.warm.signing import signer
from kappa_gateway.settings import Settings as GatewaySettings
from kappa_operator.settings import Settings as OperatorSettings

HERE = Path(__file__).parent
CHART = HERE.parents[2] / "charts" / "kappa"
CRD_FILE = CHART / "files" / "kappa.run_functions.yaml"
KEY_HASH = "kappa.run/pool-key-hash"
SETS = ("default", "everything", "namespaced", "existing_nats")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("helm", path=f"/usr/local/kubebuilder/bin:{os.environ.get('PATH', '')}")
    assert program, "this test needs helm in PATH; leave it out with: pytest -m 'not helm'"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def render(*arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "kappa", str(CHART), "--namespace", "kappa-system", *arguments)
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    return sorted(
        objects, key=lambda each: (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
    )


class Readable(yaml.SafeDumper):
    """Text of several lines as such."""


def several_lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, several_lines)


@pytest.mark.helm
@pytest.mark.parametrize("name", SETS)
def test_the_chart_renders_as_in_the_golden_file(name: str) -> None:
    # The CRD has its own test, so that a new field of the Function changes no golden file here.
    objects = [
        each
        for each in render("--values", str(HERE / name / "values.yaml"))
        if each["kind"] != "CustomResourceDefinition"
    ]
    for each in objects:
        if each["kind"] == "Secret":
            each["data"] = {key: f"{len(base64.b64decode(text))} bytes" for key, text in each["data"].items()}
        elif "template" in each.get("spec", {}):
            annotations = each["spec"]["template"]["metadata"].get("annotations", {})
            if KEY_HASH in annotations:
                # of a key that each render generates
                annotations[KEY_HASH] = f"{len(annotations[KEY_HASH])} digits"
        elif each["metadata"]["name"].endswith("-dashboard"):
            assert json.loads(each["data"].pop("kappa.json"))["title"] == "Kappa"
    text = yaml.dump_all(objects, Dumper=Readable, sort_keys=True, width=120)
    golden = HERE / name / "rendered.yaml"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 updates it, if the change is intended"


@pytest.mark.helm
@pytest.mark.parametrize("name", SETS)
def test_helm_lint_is_clean(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(HERE / name / "values.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.helm
def test_the_crd_is_the_generated_one_and_outlives_the_release() -> None:
    (crd,) = [each for each in render() if each["kind"] == "CustomResourceDefinition"]
    generated = yaml.safe_load(CRD_FILE.read_text(encoding="utf-8"))
    assert crd["spec"] == generated["spec"]
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    kinds = {each["kind"] for each in render("--set", "crds.install=false")}
    assert "CustomResourceDefinition" not in kinds


@pytest.mark.helm
def test_with_a_list_of_namespaces_kappa_has_no_rights_outside_of_them() -> None:
    objects = render("--values", str(HERE / "namespaced" / "values.yaml"))
    assert not [each for each in objects if each["kind"].startswith("ClusterRole")]
    roles = {each["metadata"]["namespace"] for each in objects if each["kind"] == "Role"}
    assert roles == {"team-a", "team-b", "kappa-system"}


@pytest.mark.helm
def test_the_demand_stream_is_in_no_service() -> None:
    ports = [
        port["targetPort"] for each in render() if each["kind"] == "Service" for port in each["spec"].get("ports", [])
    ]
    assert sorted(ports) == ["http", "metrics", "monitor", "nats", "routes"]


@pytest.mark.helm
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gatway.replicas=3", "additional properties 'gatway' not allowed"),
        ("gateway.replica=3", "at '/gateway': additional properties 'replica' not allowed"),
        ("gateway.config.maxwait=3", "at '/gateway/config': additional properties 'maxwait' not allowed"),
        ("logLevel=loud", "at '/logLevel'"),
        ("watchNamespaces={Team_A}", "at '/watchNamespaces/0'"),
        ("runtimes.nodejs20.pullPolicy=Always", "runtimes.nodejs20.image: name the image of this runtime"),
        ("url=functions.example.com", "at '/url'"),
        ("account=12", "at '/account'"),
        ("queue.nats.replicas=2", "at '/queue/nats/replicas': value must be one of 1, 3"),
        ("queue.nats.storage.size=10", "at '/queue/nats/storage/size'"),
        ("queue.url=nats://me:secret@host:4222", "at '/queue/url'"),
        ("queue.auth.method=none", "at '/queue/auth/method': value must be one of"),
        ("queue.url=nats://host:4222", "set queue.nats.enabled=false"),
        ("queue.auth.existingSecret=login", "set queue.url and queue.nats.enabled=false"),
        ("queue.replicas=3", "set queue.nats.replicas=3, or leave queue.replicas empty"),
        ("queue.nats.enabled=false,queue.replicas=1", "set queue.url, or queue.nats.enabled=true"),
        ("gateway.config.eventMaxBytes=7000000", "set at most 6291456"),
        ("pools.size=-1", "at '/pools/size'"),
        ("pools.memoryLimit=512", "at '/pools/memoryLimit'"),
        ("pools.namespaces.team-a=2", "at '/pools/namespaces/team-a'"),
        ("pools.preload={a b}", "at '/pools/preload/0'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(value: str, message: str) -> None:
    done = helm("template", "kappa", str(CHART), "--set", value)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.helm
def test_large_numbers_reach_the_settings_as_they_are() -> None:
    objects = render("--set", "gateway.config.bodyMemoryBytes=134217728,operator.config.resyncInterval=300")
    env = {
        variable["name"]: variable.get("value")
        for each in objects
        if each["kind"] == "Deployment"
        for variable in each["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert env["KAPPA_GATEWAY_BODY_MEMORY_BYTES"] == "134217728"
    assert env["KAPPA_OPERATOR_RESYNC_INTERVAL"] == "300"


@pytest.mark.helm
@pytest.mark.parametrize("name", SETS)
def test_every_variable_of_the_chart_is_a_setting_that_reads_its_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in render("--values", str(HERE / name / "values.yaml")):
        if each["kind"] != "Deployment":
            continue
        for variable in each["spec"]["template"]["spec"]["containers"][0]["env"]:
            match = re.fullmatch(r"KAPPA_(GATEWAY|OPERATOR)_(.+)", variable["name"])
            if match:
                settings = GatewaySettings if match[1] == "GATEWAY" else OperatorSettings
                assert match[2].lower() in settings.model_fields, variable["name"]
                monkeypatch.setenv(variable["name"], variable.get("value", "from-the-pod"))
    expected = ["team-a", "team-b"] if name == "namespaced" else []
    assert GatewaySettings().namespaces == OperatorSettings().namespaces == expected


@pytest.mark.parametrize(("part", "settings"), [("gateway", GatewaySettings), ("operator", OperatorSettings)])
def test_every_key_of_config_is_a_setting(part: str, settings: type[GatewaySettings] | type[OperatorSettings]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    keys = schema["properties"][part]["properties"]["config"]["properties"]
    assert not {snake_case(key) for key in keys} - set(settings.model_fields)


def test_every_setting_of_the_gateway_can_be_set() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    in_config = {snake_case(key) for key in schema["properties"]["gateway"]["properties"]["config"]["properties"]}
    templates = "".join(each.read_text(encoding="utf-8") for each in (CHART / "templates").iterdir())
    set_by_the_chart = {name.lower() for name in re.findall(r"\bKAPPA_GATEWAY_([A-Z_]*[A-Z])\b", templates)}
    # the container's own ports and address, as its probes and Services name them
    fixed = {"host", "port", "internal_port"}
    assert set(GatewaySettings.model_fields) == in_config | set_by_the_chart | fixed, (
        "a setting needs a key in values.schema.json, under gateway.config"
    )
    assert not in_config & set_by_the_chart


def snake_case(key: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower()


def environment(objects: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    (found,) = [each for each in objects if each["metadata"]["name"] == name and "template" in each.get("spec", {})]
    env: list[dict[str, Any]] = found["spec"]["template"]["spec"]["containers"][0]["env"]
    return env


@pytest.mark.helm
def test_without_a_queue_the_gateway_has_no_queue_url_and_no_nats_is_installed() -> None:
    objects = render("--set", "queue.nats.enabled=false")
    assert not [each["metadata"]["name"] for each in objects if "nats" in each["metadata"]["name"]]
    assert not [each for each in environment(objects, "kappa-gateway") if "QUEUE_URL" in each["name"]]


@pytest.mark.helm
def test_secrets_of_ones_own_leave_nothing_to_generate() -> None:
    names = "queue.nats.existingSecret=login,signingKey.existingSecret=key,pools.existingSecret=pool-key"
    objects = render("--set", names)
    assert not [each for each in objects if each["kind"] == "Secret"]
    used = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for name in ("kappa-gateway", "kappa-operator", "kappa-nats")
        for variable in environment(objects, name)
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert used == {"login", "key", "pool-key"}


@pytest.mark.helm
def test_the_pools_key_is_one_that_gateway_and_operator_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    (secret,) = [each for each in render() if each["metadata"]["name"] == "kappa-pools"]
    key = base64.b64decode(secret["data"]["private-key"]).decode()
    monkeypatch.setenv("KAPPA_GATEWAY_POOL_PRIVATE_KEY", key)
    monkeypatch.setenv("KAPPA_OPERATOR_POOL_PRIVATE_KEY", key)
    sign = signer(GatewaySettings())
    assert sign is not None
    assert OperatorSettings().pools().public_key == sign.public_key
    (other,) = [each for each in render() if each["metadata"]["name"] == "kappa-pools"]
    assert other["data"] != secret["data"], "every installation has a key of its own"


@pytest.mark.helm
def test_another_pools_key_is_another_pod_template_of_all_that_read_it() -> None:
    def hashes(*arguments: str) -> list[str | None]:
        parts = [each for each in render(*arguments) if each["kind"] == "Deployment"]
        assert len(parts) == 2
        return [part["spec"]["template"]["metadata"].get("annotations", {}).get(KEY_HASH) for part in parts]

    first, second = hashes(), hashes()
    assert first[0] == first[1] is not None
    # nothing is found where a chart is only rendered: each time a Secret is new
    assert first != second
    assert hashes("--set", "pools.existingSecret=pool-key") == [None, None]
    assert hashes("--set", "pools.size=0") == [None, None]


@pytest.mark.helm
@pytest.mark.parametrize(
    ("values", "on"),
    [
        ({"size": 0}, False),
        ({"size": 0, "runtimes": {"python3.13": 0}, "namespaces": {"a": {"python3.13": 0}}}, False),
        ({"size": 0, "runtimes": {"python3.13": 1}}, True),
        ({"size": 0, "namespaces": {"a": {"python3.13": 1}}}, True),
        ({"size": 1, "namespaces": {"a": {"python3.13": 0}}}, True),
    ],
)
def test_without_a_size_above_zero_nobody_has_a_key(values: dict[str, Any], on: bool) -> None:
    objects = render("--set-json", f"pools={json.dumps(values)}")
    assert ("kappa-pools" in {each["metadata"]["name"] for each in objects}) is on
    for name in ("kappa-gateway", "kappa-operator"):
        assert bool([each for each in environment(objects, name) if "_POOL_" in each["name"]]) is on


@pytest.mark.helm
@pytest.mark.parametrize("servers", [1, 3])
def test_nats_takes_its_configuration_whatever_the_passwords_are(servers: int, tmp_path: Path) -> None:
    users = "queue.nats.users[0].existingSecret=listener,queue.nats.users[0].subscribe={orders.>}"
    objects = render("--set", f"queue.nats.replicas={servers},{users}")
    (config,) = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "kappa-nats"]
    (tmp_path / "nats.conf").write_text(config["data"]["nats.conf"], encoding="utf-8")
    env: dict[str, str] = {}
    for variable in environment(objects, "kappa-nats"):
        # numbers, booleans, units and comments are what NATS would read in text that is not quoted
        value = variable.get("value", f"12e5-true_{len(env)}k")
        env[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: env[match[1]], value)
    done = subprocess.run(
        [nats_server.binary(), "-t", "--config", str(tmp_path / "nats.conf")],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is valid" in done.stderr


@pytest.mark.helm
def test_a_change_of_natss_configuration_rolls_its_pods() -> None:
    def hash_with(*arguments: str) -> str:
        (found,) = [each for each in render(*arguments) if each["kind"] == "StatefulSet"]
        return str(found["spec"]["template"]["metadata"]["annotations"]["kappa.run/config-hash"])

    assert hash_with() == hash_with()
    assert hash_with() != hash_with("--set", "queue.nats.extraConfig=debug: true")


@pytest.mark.helm
def test_the_gateways_pod_outlives_its_drain() -> None:
    for values in ("", "gateway.config.drainDelay=10,gateway.config.drainTimeout=900"):
        objects = render(*(["--set", values] if values else []))
        (pod,) = [
            each["spec"]["template"]["spec"]
            for each in objects
            if each["kind"] == "Deployment" and each["metadata"]["name"] == "kappa-gateway"
        ]
        env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        drain = float(env["KAPPA_GATEWAY_DRAIN_DELAY"]) + float(env["KAPPA_GATEWAY_DRAIN_TIMEOUT"])
        assert pod["terminationGracePeriodSeconds"] > drain


def test_every_value_is_in_the_readme() -> None:
    words = set(re.findall(r"[A-Za-z]+", (CHART / "README.md").read_text(encoding="utf-8")))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    keys = set(values) | {inner for name in set(values) - {"runtimes"} for inner in _keys(values[name])}
    keys |= set(values["queue"]["nats"])
    assert not keys - words


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []
