"""The gateways' key. With it a gateway signs which function a pool pod gets (agents have only the public half), and
proves to other gateways that it is a gateway."""

import base64
import binascii
import hashlib
import hmac
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kappa_gateway.settings import Settings

if TYPE_CHECKING:
    from nacl.signing import SigningKey


class BadKey(Exception):
    """The key that the settings name cannot be used; the message says which setting."""


_PROOF: Final = b"kappa.run/peer"
"""Keeps the key of proofs apart from whatever else is derived from the gateways' key."""


class Signer:
    """Ed25519. Made from 32 bytes, RFC 8032's private key."""

    def __init__(self, private_key: bytes) -> None:
        self._private_key = private_key

    def prepare(self) -> None:
        """Load what signing takes, which costs 20 ms, ahead of the first signature."""
        _ = self._key

    @cached_property
    def _key(self) -> "SigningKey":
        # 20 ms: once there is something to sign for
        from nacl.signing import SigningKey

        return SigningKey(self._private_key)

    def __call__(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(message).signature

    def prove(self, message: bytes) -> str:
        """A proof, in hexadecimal, that a gateway sent this message. Other gateways check it. It takes 2 µs; a
        signature takes 40."""
        return hashlib.blake2b(message, key=self._proof_key, digest_size=32).hexdigest()

    def is_proof(self, message: bytes, proof: str) -> bool:
        return hmac.compare_digest(self.prove(message).encode(), proof.encode())

    @cached_property
    def _proof_key(self) -> bytes:
        return hashlib.blake2b(_PROOF, key=self._private_key, digest_size=32).digest()

    @property
    def public_key(self) -> str:
        """Base64, as `KAPPA_POOL_PUBLIC_KEY` has it."""
        return base64.b64encode(bytes(self._key.verify_key)).decode()


def signer(settings: Settings) -> Signer | None:
    """The signer for these settings; None where they name no key, and so no pool is used. Raises `BadKey`."""
    text, where = settings.pool_private_key.get_secret_value(), "KAPPA_GATEWAY_POOL_PRIVATE_KEY"
    if settings.pool_private_key_file:
        where = f"{settings.pool_private_key_file} (KAPPA_GATEWAY_POOL_PRIVATE_KEY_FILE)"
        try:
            text = Path(settings.pool_private_key_file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadKey(f"the key of the pools cannot be read: {where}: {error}") from None
    if not text.strip():
        return None
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise BadKey(f"the key of the pools is not 32 bytes in base64: {where}. Make one: openssl rand -base64 32")
    return Signer(key)
