"""The public half of the gateways' key, which free pods check `specialize` with."""

import base64
import binascii
from typing import Final

LENGTH: Final = 32
"""Bytes of either half of an Ed25519 key (RFC 8032)."""


def public_key(private_key: str) -> str:
    """Base64 of the public half of `private_key`, 32 bytes in base64. Raises `ValueError` if it is not that."""
    # imported where pools are used: it takes some milliseconds
    from nacl.signing import SigningKey

    return base64.b64encode(bytes(SigningKey(_decoded(private_key)).verify_key)).decode()


def is_public_key(text: str) -> bool:
    """Whether it is 32 bytes in base64."""
    try:
        _decoded(text)
    except ValueError:
        return False
    return True


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != LENGTH:
        raise ValueError("this is not 32 bytes in base64. Make a key: openssl rand -base64 32")
    return key
