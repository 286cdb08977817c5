"""The operator's settings, and what it says of those that it cannot read."""

import base64

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
        ("POOL_PRIVATE_KEY", "c2hvcnQ=", "KAPPA_OPERATOR_POOL_PRIVATE_KEY: this is not 32 bytes in base64"),
        ("POOL_PUBLIC_KEY", "%", "KAPPA_OPERATOR_POOL_PUBLIC_KEY='%': this is not 32 bytes in base64"),
    ],
)
def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"KAPPA_OPERATOR_{name}", value)
    with pytest.raises(ValueError) as refused:
        load()
    assert said in str(refused.value)
    assert "pydantic" not in str(refused.value)


def test_free_pods_get_the_public_half_of_the_gateways_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load().pools().public_key
    # RFC 8032, 7.1, test 1
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    monkeypatch.setenv("KAPPA_OPERATOR_POOL_PRIVATE_KEY", base64.b64encode(seed).decode() + "\n")
    assert load().pools().public_key == base64.b64encode(public).decode()
    monkeypatch.setenv("KAPPA_OPERATOR_POOL_PUBLIC_KEY", base64.b64encode(bytes(32)).decode())
    assert load().pools().public_key == base64.b64encode(bytes(32)).decode(), "named on its own, it goes before"
