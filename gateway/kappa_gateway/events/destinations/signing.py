"""Signatures of what goes to web addresses: Standard Webhooks 1.0, symmetric (https://www.standardwebhooks.com).

The installation has one key; each namespace's own is derived from it, so that a receiver that knows one namespace's
key can forge nothing from another:

    key = HMAC-SHA256(installation's key, "kappa-webhook/" + namespace)

For a change of keys the installation can have several, separated by spaces, the newest first: every message is then
signed with each, and a receiver takes it if any of them fits.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"


def namespace_key(master: str, namespace: str) -> bytes:
    """The 32 bytes that sign what the functions of a namespace send. `master` is one key."""
    return hmac.digest(master.encode(), f"kappa-webhook/{namespace}".encode(), hashlib.sha256)


def namespace_keys(masters: str, namespace: str) -> list[bytes]:
    """One for each key in the setting `signing_key`, newest first; empty: nothing is signed."""
    return [namespace_key(master, namespace) for master in masters.split()]


def secret(key: bytes) -> str:
    """A key as receivers' libraries take it: `whsec_` and base64."""
    return "whsec_" + base64.b64encode(key).decode()


def signed(keys: Iterable[bytes], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers, without a signature if there is no key. `timestamp`: of this try, seconds since the epoch."""
    content = f"{message_id}.{timestamp}.".encode() + body
    headers = {ID: message_id, TIMESTAMP: str(timestamp)}
    signatures = ["v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    if signatures:
        headers[SIGNATURE] = " ".join(signatures)
    return headers
