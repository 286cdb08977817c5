"""The generated CRD is structural, described and in step with the files that are committed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from kappa_core.crd import crd, function_schema, structural

ROOT = Path(__file__).resolve().parents[3]
# https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
FORBIDDEN = {
    "$ref",
    "$defs",
    "definitions",
    "title",
    "anyOf",
    "oneOf",
    "allOf",
    "const",
    "exclusiveMinimum",
    "exclusiveMaximum",
}


def walk(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield place, schema
    for name, part in schema.get("properties", {}).items():
        yield from walk(part, f"{place}.{name}".lstrip("."))
    if "items" in schema:
        yield from walk(schema["items"], f"{place}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{place}.*")


NODES = dict(walk(function_schema()))


@pytest.mark.parametrize(
    "place", [place for place in NODES if not place.endswith(("[]", ".*")) and place != "metadata"]
)
def test_every_field_is_described(place: str) -> None:
    assert NODES[place].get("description", "").endswith("."), f"{place} needs a description that is a sentence"


@pytest.mark.parametrize("place", [p for p in NODES if p.startswith("spec.") and not p.endswith(("[]", ".*"))])
def test_an_optional_value_says_its_default(place: str) -> None:
    """Required values, and objects whose own fields have the defaults, have none to say."""
    node = NODES[place]
    parent, _, name = place.rpartition(".")
    chosen = name in ("inline", "configMap", "archive", "image", "valueFrom") or name.endswith("Ref")  # one of several
    if name in NODES[parent].get("required", ()) or node.get("properties") or chosen:
        return
    if name in ("runtime", "handler"):
        assert "Required unless code.image is set" in node["description"]
        return
    assert "Default: " in node["description"]
    if "default" in node:
        assert f"Default: {node['default']}" in node["description"]


def test_the_schema_is_structural() -> None:
    for place, node in NODES.items():
        assert not FORBIDDEN & node.keys(), place
        assert ("type" in node) != bool(node.get("x-kubernetes-int-or-string")), place
        assert not ("properties" in node and "additionalProperties" in node), place
        if node.get("type") == "array":
            assert node["x-kubernetes-list-type"] in ("map", "atomic"), place
            for key in node.get("x-kubernetes-list-map-keys", ()):
                assert key in node["items"]["required"], place


def test_what_is_kubernetes_own_is_passed_on() -> None:
    assert NODES["spec.podTemplate.affinity"]["x-kubernetes-preserve-unknown-fields"] is True
    assert NODES["spec.podTemplate.volumes[]"]["x-kubernetes-preserve-unknown-fields"] is True
    assert NODES["spec.podTemplate.labels"]["additionalProperties"] == {"type": "string"}


def test_the_status_has_no_defaults() -> None:
    assert [place for place, node in NODES.items() if place.startswith("status") and "default" in node] == []


def test_defaults_that_mean_absence_stay_out_of_peoples_manifests() -> None:
    defaults = {place: node["default"] for place, node in NODES.items() if "default" in node}
    assert "" not in defaults.values()
    assert "spec.podTemplate" not in defaults
    assert "spec.code.image" not in defaults
    assert defaults["spec.scaling"] == {"minReplicas": 0, "maxReplicas": 10, "keepWarm": "5m"}


def test_a_kind_of_field_that_has_no_structural_form_is_an_error() -> None:
    class Odd(BaseModel):
        either: int | str = 1

    with pytest.raises(ValueError, match="one type"):
        structural(Odd)

    class Multiple(BaseModel):
        even: int = Field(default=2, multiple_of=2)

    with pytest.raises(ValueError, match="multipleOf"):
        structural(Multiple)


def test_the_crd_has_the_names_people_type() -> None:
    spec = crd()["spec"]
    assert crd()["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}" == "functions.kappa.run"
    assert (spec["names"]["shortNames"], spec["names"]["categories"]) == (["fn", "fns"], ["all"])
    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    columns = {column["name"]: column.get("priority", 0) for column in version["additionalPrinterColumns"]}
    assert columns == {"Runtime": 0, "Ready": 0, "Replicas": 0, "URL": 0, "Age": 0, "Reason": 1, "Cold-Start": 1}


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "scripts" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_what_the_model_gives(generate: ModuleType) -> None:
    assert generate.stale(ROOT) == [], "run: make generate"
    text = (ROOT / "crds" / "kappa.run_functions.yaml").read_text(encoding="utf-8")
    assert "by `make generate`" in text.splitlines()[0]
    assert yaml.safe_load(text) == crd()


def test_a_stale_file_fails_the_check_and_says_what_to_run(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "crds/kappa.run_functions.yaml" in (problem := capsys.readouterr().err)
    assert "make generate" in problem
    assert generate.main([]) == 0
    capsys.readouterr()
    assert generate.main(["--check"]) == 0
    (tmp_path / "crds" / "kappa.run_functions.yaml").write_text("edited by hand")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.count("make generate") == 1
    assert generate.main(["--chek"]) == 2
