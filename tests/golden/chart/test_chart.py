"""The chart: golden renders of three sets of values, what values it refuses, and that its settings exist.

`UPDATE_GOLDEN=1 pytest tests/golden/chart` writes the renders anew; read the difference before you commit it.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kappa_gateway.settings import Settings as GatewaySettings
from kappa_operator.settings import Settings as OperatorSettings

HERE = Path(__file__).parent
CHART = HERE.parents[2] / "charts" / "kappa"
CRD_FILE = CHART / "files" / "kappa.run_functions.yaml"
SETS = ("default", "everything", "namespaced")


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


@pytest.mark.helm
@pytest.mark.parametrize("name", SETS)
def test_the_chart_renders_as_in_the_golden_file(name: str) -> None:
    # The CRD has its own test, so that a new field of the Function changes no golden file here.
    objects = [
        each
        for each in render("--values", str(HERE / name / "values.yaml"))
        if each["kind"] != "CustomResourceDefinition"
    ]
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    golden = HERE / name / "rendered.yaml"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 writes it anew, if this change is meant"


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
    assert sorted(ports) == ["http", "metrics"]


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
    settings = GatewaySettings(), OperatorSettings()
    expected = {"default": [], "everything": [], "namespaced": ["team-a", "team-b"]}[name]
    assert [each.namespaces for each in settings] == [expected, expected]


@pytest.mark.parametrize(("part", "settings"), [("gateway", GatewaySettings), ("operator", OperatorSettings)])
def test_every_key_of_config_is_a_setting(part: str, settings: type[GatewaySettings] | type[OperatorSettings]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    keys = schema["properties"][part]["properties"]["config"]["properties"]
    unknown = {key for key in keys if re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower() not in settings.model_fields}
    assert not unknown


def test_every_value_is_in_the_readme() -> None:
    words = set(re.findall(r"[A-Za-z]+", (CHART / "README.md").read_text(encoding="utf-8")))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    keys = set(values) | {inner for name in set(values) - {"runtimes"} for inner in _keys(values[name])}
    assert not keys - words


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []
