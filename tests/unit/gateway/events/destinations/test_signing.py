"""Signatures of deliveries to web addresses, checked by Standard Webhooks' rules and the receiver in the docs."""

import base64
import hashlib
import hmac
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.events.destinations import signing

MASTER = "the-installations-key"
PAGE = Path(__file__).resolve().parents[5] / "docs" / "destinations.md"
Verify = Callable[[Mapping[str, str], bytes, str], bytes]


def shown_on_the_page(marker: str) -> str:
    """The code block that holds the marker."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if marker in block]
    return str(block)


@pytest.fixture(scope="module")
def verify() -> Verify:
    """The receiver of docs/destinations.md, as it stands there."""
    names: dict[str, Any] = {}
    exec(compile(shown_on_the_page("def verify("), str(PAGE), "exec"), names)
    found: Verify = names["verify"]
    return found


def signed(body: bytes = b"{}", *, keys: str = MASTER, namespace: str = "team-a", at: float | None = None) -> Any:
    return signing.signed(
        signing.namespace_keys(keys, namespace),
        message_id="c0ffee",
        timestamp=int(time.time() if at is None else at),
        body=body,
    )


def secret_of(namespace: str = "team-a", master: str = MASTER) -> str:
    return signing.secret(signing.namespace_key(master, namespace))


def test_the_signature_is_that_of_the_specification() -> None:
    """Computed here by the specification's own words: HMAC-SHA256 of id.timestamp.body with the decoded secret."""
    headers = signed(b'{"a": 1}', at=1_674_087_231.9)
    key = base64.b64decode(secret_of().removeprefix("whsec_"))
    expected = hmac.new(key, b'c0ffee.1674087231.{"a": 1}', hashlib.sha256).digest()
    assert headers == {
        "webhook-id": "c0ffee",
        "webhook-timestamp": "1674087231",
        "webhook-signature": "v1," + base64.b64encode(expected).decode(),
    }


def test_a_known_signature() -> None:
    """A vector whose values were made with the openssl command."""
    key = signing.namespace_key("master", "team-a")
    assert signing.secret(key) == "whsec_GDh1/dN7QCGNrhk95oCpQRPxFegZEAqIzY5jKMNI4uI="
    headers = signing.signed([key], message_id="msg", timestamp=1_700_000_000, body=b"{}")
    assert headers["webhook-signature"] == "v1,rfyZgXfFBlxw/tew6aTEs/0wW9IoOhVpTsjURL5UxrM="


def test_a_key_is_as_long_as_receivers_ask_for() -> None:
    key = signing.namespace_key("", "team-a")
    assert 24 <= len(key) <= 64
    assert base64.b64decode(signing.secret(key).removeprefix("whsec_")) == key


def test_each_namespace_has_a_key_of_its_own() -> None:
    keys = {signing.namespace_key(master, name) for master in ("one", "two") for name in ("a", "b", "")}
    assert len(keys) == 6


def test_without_a_key_nothing_is_signed() -> None:
    for none in ("", "  \n"):
        assert signed(keys=none).keys() == {"webhook-id", "webhook-timestamp"}


def test_the_pages_receiver_takes_what_is_signed(verify: Verify) -> None:
    assert verify(signed(b"body"), b"body", secret_of()) == b"body"


def test_the_pages_receiver_takes_either_key_while_keys_change(verify: Verify) -> None:
    headers = signed(keys="new old")
    for master in ("new", "old"):
        verify(headers, b"{}", secret_of(master=master))
    with pytest.raises(ValueError):
        verify(headers, b"{}", secret_of(master="older"))


def test_the_pages_receiver_refuses_what_was_changed(verify: Verify) -> None:
    good = signed(b"body")
    for changed in (
        {"webhook-id": "other"},
        {"webhook-timestamp": str(int(time.time()) + 1)},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": good["webhook-signature"].replace("v1,", "v1a,")},
        {"webhook-signature": ""},
    ):
        with pytest.raises(ValueError):
            verify({**good, **changed}, b"body", secret_of())
    with pytest.raises(ValueError):
        verify(good, b"another body", secret_of())
    with pytest.raises(ValueError):
        verify(good, b"body", secret_of("team-b"))


@pytest.mark.parametrize("age", [3600, -3600])
def test_the_pages_receiver_refuses_what_is_sent_again_later(verify: Verify, age: int) -> None:
    with pytest.raises(ValueError, match="old"):
        verify(signed(b"body", at=time.time() - age), b"body", secret_of())


def test_the_pages_command_gives_the_same_secret() -> None:
    command = shown_on_the_page("openssl dgst").replace("$(kubectl ", "$(false kubectl ")
    script = "\n".join(line for line in command.splitlines() if not line.startswith("KEY="))
    done = subprocess.run(
        ["sh", "-c", script], env={"KEY": MASTER, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == secret_of("team-a")


@given(body=st.binary(), namespace=st.from_regex(r"[a-z]{1,10}", fullmatch=True), master=st.text(max_size=40))
def test_whatever_is_signed_is_verified(verify: Verify, body: bytes, namespace: str, master: str) -> None:
    if signing.namespace_keys(master, namespace):
        first = master.split()[0]
        assert verify(signed(body, keys=master, namespace=namespace), body, secret_of(namespace, first)) == body
