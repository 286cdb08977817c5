"""The Function model takes and refuses what the CRD does (the same table is put to an API server in tests/cluster)."""

import copy
from typing import Any

import function_constraints
import pytest
from function_constraints import Case
from pydantic import ValidationError

from kappa_core.crd import function_schema
from kappa_core.function import Function, Rule
from kappa_core.function.base import Model

CASES = function_constraints.cases()
# The status is the operator's: what the model reads there, the API server has checked.
READ_LENIENTLY = {"status.conditions keys type", "status.conditions[].lastTransitionTime format"}


def test_every_constraint_of_the_schema_is_in_the_table_and_no_other() -> None:
    of_schema = set(function_constraints.constraints(function_schema()))
    of_table = set(function_constraints.table()["constraints"])
    assert of_schema - of_table == set(), "without an accept/reject pair in tests/golden/crd/constraints.yaml"
    assert of_table - of_schema == set(), "in the table, not in the schema"


def test_every_constraint_has_a_manifest_it_takes_and_one_it_refuses() -> None:
    for constraint, entry in function_constraints.table()["constraints"].items():
        assert entry["good"], constraint
        assert entry["bad"], constraint


@pytest.mark.parametrize("case", [case for case in CASES if case.accepted], ids=str)
def test_accepts(case: Case) -> None:
    function = Function.model_validate(case.manifest)
    assert function.metadata.name == case.manifest["metadata"]["name"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.accepted and case.constraint not in READ_LENIENTLY], ids=str
)
def test_refuses_and_names_the_field(case: Case) -> None:
    with pytest.raises(ValidationError) as refused:
        Function.model_validate(case.manifest)
    named = function_constraints.named_fields(refused.value)
    expected = case.says.removesuffix("[1]")  # a second variable of one name: the model blames the list
    assert expected in named


def test_defaults_of_the_smallest_function() -> None:
    spec = Function.model_validate(function_constraints.smallest()).spec
    assert (spec.memory, spec.cpu, spec.timeout_seconds, spec.concurrency) == ("128Mi", None, 30, 1)
    assert (spec.scaling.min_replicas, spec.scaling.max_replicas, spec.scaling.keep_warm_seconds) == (0, 10, 300)
    assert (spec.async_.max_attempts, spec.async_.max_age) == (3, "6h")
    assert (spec.env, spec.service_account_name, spec.protocol) == ([], "", "lambda")


def test_null_is_as_good_as_absent() -> None:
    manifest = function_constraints.smallest()
    manifest["spec"] |= {"timeout": None, "env": None, "scaling": {"keepWarm": None}, "podTemplate": None}
    manifest["metadata"]["labels"] = None
    assert Function.model_validate(manifest) == Function.model_validate(function_constraints.smallest())


def test_a_number_is_a_quantity() -> None:
    manifest = function_constraints.smallest()
    manifest["spec"] |= {"memory": 134217728, "cpu": 1}
    spec = Function.model_validate(manifest).spec
    assert (spec.memory, spec.cpu) == ("134217728", "1")


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"concurrency": "5"}, "spec.concurrency"),
        ({"concurrency": True}, "spec.concurrency"),
        ({"timeout": 30}, "spec.timeout"),
        ({"memory": True}, "spec.memory"),
        ({"memory": 1.5}, "spec.memory"),
        ({"env": {"A": "b"}}, "spec.env"),
        ({"env": [{"name": "PORT", "value": 8080}]}, "spec.env[0].value"),
        ({"podTemplate": {"labels": {"a": 1}}}, "spec.podTemplate.labels.a"),
        ({"podTemplate": {"affinity": "node"}}, "spec.podTemplate.affinity"),
        ({"memroy": "1Gi"}, "spec.memroy"),
        ({"scaling": {"max": 3}}, "spec.scaling.max"),
    ],
)
def test_refuses_wrong_types_and_unknown_fields(patch: dict[str, Any], field: str) -> None:
    manifest = function_constraints.smallest()
    manifest["spec"] |= patch
    with pytest.raises(ValidationError) as refused:
        Function.model_validate(manifest)
    assert function_constraints.named_fields(refused.value) == [field]


def test_all_broken_rules_are_told_at_once() -> None:
    manifest = function_constraints.smallest()
    manifest["spec"] |= {"timeout": "2h", "memory": "1Mi"}
    with pytest.raises(ValidationError) as refused:
        Function.model_validate(manifest)
    assert function_constraints.named_fields(refused.value) == ["spec.timeout", "spec.memory"]
    assert "timeout: must be between 100ms and 1h; memory: must be at least 32Mi" in str(refused.value)


def test_a_field_of_a_newer_crd_is_ignored_when_read_from_the_cluster_only() -> None:
    manifest = function_constraints.smallest()
    newer = copy.deepcopy(manifest)
    newer["spec"]["shiny"] = True
    newer["spec"]["scaling"] = {"alsoShiny": 1}
    newer["shinier"] = {}
    assert Function.from_cluster(newer) == Function.from_cluster(manifest)
    with pytest.raises(ValidationError):
        Function.model_validate(newer)


def test_conditions_are_found_by_type() -> None:
    manifest = function_constraints.smallest()
    condition = {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Deployed",
        "message": "",
    }
    manifest["status"] = {"conditions": [condition]}
    function = Function.model_validate(manifest)
    assert (found := function.condition("Ready")) is not None
    assert found.reason == "Deployed"
    assert function.condition("Progressing") is None
    assert function.key == "default/case"


def test_rules_name_their_field_in_text_and_for_kubernetes() -> None:
    rule = Rule(cel="self.a > 0", holds=lambda self: True, message="must be positive", field="a")
    assert str(rule) == "a: must be positive"
    assert rule.to_kubernetes() == {"rule": "self.a > 0", "message": "must be positive", "fieldPath": ".a"}
    whole = Rule(cel="true", holds=lambda self: True, message="set one")
    assert (str(whole), whole.to_kubernetes()) == ("set one", {"rule": "true", "message": "set one"})


def test_every_rule_has_a_message_without_a_final_stop() -> None:
    models, rules = [Model], []
    while models:
        model = models.pop()
        models += model.__subclasses__()
        rules += model.__dict__.get("RULES", ())
    assert len(rules) > 15
    for rule in rules:
        assert rule.message, rule
        assert not rule.message.endswith("."), rule
