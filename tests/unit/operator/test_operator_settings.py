"""The operator's settings, and what it says of those that it cannot read."""

import pytest

from kappa_core.manifests import RuntimeImage
from kappa_operator.settings import load


def test_runtimes_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPPA_OPERATOR_RUNTIMES", '{"python3.13": {"image": "i:1", "pullPolicy": "Always"}}')
    monkeypatch.setenv("KAPPA_OPERATOR_NAMESPACES", '["a", "b"]')
    settings = load()
    assert settings.platform().runtimes == {"python3.13": RuntimeImage(image="i:1", pull_policy="Always")}
    assert settings.platform().agent_image == RuntimeImage(image="i:1", pull_policy="Always")
    assert settings.namespaces == ["a", "b"]


def test_an_agent_image_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPPA_OPERATOR_AGENT_IMAGE", "agent:2")
    assert load().platform().agent_image == RuntimeImage(image="agent:2")


def test_a_named_operator_serves_those_that_name_it_and_the_other_one_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().function_selector == "!kappa.run/operator"
    monkeypatch.setenv("KAPPA_OPERATOR_NAME", "canary")
    assert load().function_selector == "kappa.run/operator=canary"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RUNTIMES", "{bad", "KAPPA_OPERATOR_RUNTIMES='{bad': this is not JSON"),
        ("RUNTIMES", '{"p": {}}', "KAPPA_OPERATOR_RUNTIMES.P.IMAGE"),
        ("WORKERS", "0", "KAPPA_OPERATOR_WORKERS='0'"),
        ("NAME", "A b", "KAPPA_OPERATOR_NAME='A b'"),
        ("RENEW_DEADLINE", "50", "must grow"),
    ],
)
def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"KAPPA_OPERATOR_{name}", value)
    with pytest.raises(ValueError) as refused:
        load()
    assert said in str(refused.value)
    assert "pydantic" not in str(refused.value)
