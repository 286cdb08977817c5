"""The gateways' key: where it comes from, what it signs and proves, and what is said of one that is none."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from kappa_gateway.pods.warm.signing import BadKey, Signer, signer
from kappa_gateway.settings import Settings

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
SIGNER = Signer(KEY)


@given(st.binary(max_size=100))
def test_what_is_signed_is_verified_with_the_public_key(message):
    VerifyKey(base64.b64decode(SIGNER.public_key)).verify(message, SIGNER(message))


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_proof_is_of_one_message(message, other):
    proof = SIGNER.prove(message)
    assert SIGNER.is_proof(message, proof)
    assert SIGNER.is_proof(other, proof) is (message == other)
    assert not Signer(bytes(32)).is_proof(message, proof)


def test_no_text_breaks_the_check_of_a_proof():
    assert not SIGNER.is_proof(b"", "\u00e9\u4e00")


def test_a_key_from_the_settings_or_a_file(tmp_path):
    file = tmp_path / "key"
    file.write_text(TEXT + "\n")
    for settings in (Settings(pool_private_key=TEXT), Settings(pool_private_key_file=str(file))):
        assert signer(settings).public_key == SIGNER.public_key


def test_without_a_key_there_is_no_signer(tmp_path):
    assert signer(Settings()) is None


@pytest.mark.parametrize("text", ["nonsense!", base64.b64encode(b"short").decode(), TEXT + TEXT])
def test_what_is_no_key_says_how_to_make_one(text):
    with pytest.raises(BadKey, match=r"KAPPA_GATEWAY_POOL_PRIVATE_KEY.*openssl rand"):
        signer(Settings(pool_private_key=text))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadKey, match="missing"):
        signer(Settings(pool_private_key_file=str(tmp_path / "missing")))
