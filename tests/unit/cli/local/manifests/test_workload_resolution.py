"""What a function's process is given."""

from pathlib import Path
from typing import Any

import pytest

from kappa_cli.local.manifests.reading import Declared, Manifests
from kappa_cli.local.manifests.workload import Unresolvable, Workload, environment, expand, resolve
from kappa_core.function import Function
from kappa_core.reasons import BLOCKING, Reason


def function(**spec: Any) -> Function:
    code = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x"}}
    metadata = {"name": "hello", "namespace": "n", "labels": {"team": "a"}, "annotations": {"b/c": "d"}}
    return Function.model_validate({"metadata": metadata, "spec": {**code, **spec}})


def env_of(entries: list[dict[str, Any]], known: Manifests | None = None, **spec: Any) -> dict[str, str]:
    return environment(function(env=entries, **spec), known or Manifests())


SETTINGS = Manifests(
    config_maps={("n", "settings"): {"A": b"a", "bad name": b"x", "B": b"b"}},
    secrets={("n", "key"): {"token": b"s3cret"}},
)


def test_values_refer_to_those_before_them() -> None:
    env = env_of([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$$(A)-$(C)"}, {"name": "C", "value": "3"}])
    assert env == {"A": "1", "B": "1-$(A)-$(C)", "C": "3"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)", "1"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$A", "$A"), ("$(", "$("), ("$()", "$()"), ("100$", "100$")],
)
def test_expansion_is_kubernetes_own(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_values_from_everywhere() -> None:
    env = env_of(
        [
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "token"}}},
            {"name": "ONE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "A"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "x", "optional": True}}},
            {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        SETTINGS,
        memory="200Mi",
    )
    assert env == {"TOKEN": "s3cret", "ONE": "a", "NS": "n", "TEAM": "a", "MEMORY": "200"}


def test_all_keys_of_a_config_map_with_a_prefix() -> None:
    spec = function(
        envFrom=[{"configMapRef": {"name": "settings"}, "prefix": "X_"}], env=[{"name": "X_A", "value": "mine"}]
    )
    assert environment(spec, SETTINGS) == {"X_A": "mine", "X_B": "b"}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"secretKeyRef": {"name": "no", "key": "x"}}, "there is no Secret 'no' in namespace 'n'"),
        ({"secretKeyRef": {"name": "key", "key": "x"}}, "has no key 'x'; it has token"),
        ({"configMapKeyRef": {"name": "no", "key": "x"}}, "there is no ConfigMap 'no'"),
        ({"fieldRef": {"fieldPath": "status.mood"}}, "'status.mood' is not one of"),
    ],
)
def test_what_is_missing_is_named_and_blocks(entry: dict[str, Any], says: str) -> None:
    with pytest.raises(Unresolvable, match=says) as caught:
        env_of([{"name": "V", "valueFrom": entry}], SETTINGS)
    assert caught.value.reason in BLOCKING
    assert "env V" in caught.value.message


def test_a_config_map_of_another_namespace_is_not_seen() -> None:
    other = Manifests(config_maps={("other", "settings"): {"A": b"a"}})
    with pytest.raises(Unresolvable, match="namespace 'n'"):
        environment(function(envFrom=[{"configMapRef": {"name": "settings"}}]), other)


def declared(folder: Path, **spec: Any) -> Declared:
    return Declared(("n", "hello"), folder / "function.yaml", function(**spec))


CODE = {"code": {"configMap": {"name": "code"}}}


def test_a_config_map_wins_over_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("folder")
    (tmp_path / "code" / ".secret").write_text("hidden")
    known = Manifests(config_maps={("n", "code"): {"main.py": b"map"}})
    assert resolve(declared(tmp_path, **CODE), known).files == {"main.py": b"map"}
    assert resolve(declared(tmp_path, **CODE), Manifests()).files == {"main.py": b"folder"}


def test_no_config_map_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Unresolvable, match="kubectl create configmap code --from-file=code") as caught:
        resolve(declared(tmp_path, **CODE), Manifests())
    assert caught.value.reason is Reason.CONFIG_MAP_NOT_FOUND


def test_a_folder_larger_than_a_config_map(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "big.bin").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(Unresolvable, match="use code\\.archive"):
        resolve(declared(tmp_path, **CODE), Manifests())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"runtime": None, "handler": None, "code": {"image": {"ref": "x"}}}, Reason.IMAGE_PULL_FAILED),
        ({"runtime": "nodejs20"}, Reason.UNKNOWN_RUNTIME),
    ],
)
def test_what_needs_a_cluster_says_so(tmp_path: Path, spec: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Unresolvable) as caught:
        resolve(declared(tmp_path, **spec), Manifests())
    assert caught.value.reason is reason
    assert reason in BLOCKING


def test_the_revision_changes_with_what_a_process_gets_and_with_nothing_else() -> None:
    first = Workload(function(), {"A": "1"}, {"main.py": b"1"})
    assert first.revision == Workload(function(), {"A": "1"}, {"main.py": b"1"}).revision
    assert first.revision == Workload(function(scaling={"maxReplicas": 3}), {"A": "1"}, {"main.py": b"1"}).revision
    others = [
        Workload(function(timeout="1s"), {"A": "1"}, {"main.py": b"1"}),
        Workload(function(code={"inline": "y"}), {"A": "1"}, {"main.py": b"1"}),
        Workload(function(), {"A": "2"}, {"main.py": b"1"}),
        Workload(function(), {"A": "1"}, {"main.py": b"2"}),
        Workload(function(), {"A": "1"}, {"main.py": b"1", "x": b""}),
    ]
    assert len({first.revision, *(other.revision for other in others)}) == 6
