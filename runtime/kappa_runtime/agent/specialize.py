"""The request that gives a pool pod its function: whether it is signed, and fits this pod."""

from __future__ import annotations

import base64
import time

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from kappa_core import specialize, wire
from kappa_core.agent_config import PoolConfig
from kappa_core.specialize import Malformed, Received, Refused
from kappa_runtime.start.fork import HARMLESS

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def verifier(public_key: str) -> Callable[[bytes, bytes], bool]:
    """(message, signature) → whether this Ed25519 key, base64, made it. Raises `ValueError` for a bad key."""
    try:
        key = VerifyKey(base64.b64decode(public_key, validate=True))
    except (ValueError, CryptoError) as error:
        raise ValueError(f"KAPPA_POOL_PUBLIC_KEY is no Ed25519 key of 32 bytes in base64: {error}") from None

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            key.verify(message, signature)
        except (ValueError, CryptoError):
            return False
        return True

    return verify


def read(body: bytes, config: PoolConfig, agent_started: float, verify: Callable[[bytes, bytes], bool]) -> Received:
    """`agent_started`: in epoch seconds. Raises `Malformed` and `Refused`."""
    received = specialize.read(
        body, pod_uid=config.pod_uid, now=time.time(), agent_started=agent_started, verify=verify
    )
    asked = received.specialization.config
    if asked.runtime != config.runtime:
        raise Refused(wire.REFUSED_OTHER_POD, f"the runtime is {asked.runtime!r}, this pod's is {config.runtime!r}")
    if asked.sidecar:
        raise Malformed("an image's agent is no pool pod")
    return received


def suits_running_interpreter(own: Mapping[str, str], pool: Mapping[str, str]) -> bool:
    """Whether an interpreter that has started with the pool's variables is as good as one with the Function's."""
    return not any(
        specialize.is_read_at_start(name) and name not in HARMLESS and pool.get(name) != value
        for name, value in own.items()
    )
