"""The body of `POST wire.SPECIALIZE_PATH`: it gives a pool pod its function, and holds the first invocation's payload.

    u32 length | signed part | u16 length | signature | code | payload            (lengths big-endian)

The signed part is JSON. It holds the hashes of code and payload, so that nothing in the body can be altered, and the
pod's uid, so that the request is valid for that pod only. The signature is Ed25519 over `CONTEXT` and the signed part.
Callers bring the functions that sign and verify: this module knows no cryptography but SHA-256.

    {"podUid": "…", "requestId": "…", "specHash": "…", "issuedAt": 1760000000.123,
     "config": {"KAPPA_FUNCTION_NAME": "hello", …}, "env": {"GREETING": "hi"},
     "code": {"sha256": "…", "length": 0}, "payload": {"sha256": "…", "length": 17}}

`config` is `AgentConfig.to_env()`, and includes inline code. The code in the body is a zip, an archive that the gateway
has fetched. An archive over `MAX_CODE_BYTES` is left out: `config` has its URL and hash, and the pod fetches it. What
belongs to the pod (its address, its task root) comes from its own `PoolConfig`. Standard library only: pool pods import
it.
"""

from __future__ import annotations

import hashlib
import json

from kappa_core import wire
from kappa_core.agent_config import AgentConfig

TYPE_CHECKING = False  # `typing` itself would cost a pool pod memory
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final

    Sign = Callable[[bytes], bytes]
    """A message → its signature (64 bytes)."""
    Verify = Callable[[bytes, bytes], bool]
    """(message, signature) → whether the gateway made it."""

CONTEXT: Final = b"kappa.run/specialize/v1\0"
"""Precedes the signed part, so that the same key's signature of another kind of message is not valid here."""
MAX_AGE: Final = 60.0
"""Seconds for which a request is valid. As two nodes' clocks differ, it may also seem to be that far in the future."""
CLOCK_SKEW: Final = 5.0
"""Seconds by which nodes' clocks may differ. A request that is older than its agent was for an earlier container of the
pod."""
MAX_CODE_BYTES: Final = 4 * 1024 * 1024
"""The pod itself fetches a larger archive."""
MAX_SIGNED_BYTES: Final = 2 * 1024 * 1024
"""It holds inline code and variables, which come from a Kubernetes object of at most 1.5 MiB."""
MAX_BODY_BYTES: Final = MAX_SIGNED_BYTES + MAX_CODE_BYTES + wire.MAX_REQUEST_BYTES + 1024

_INTERPRETER = ("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_")
_INTERPRETER_NAMES = frozenset(("LANG", "LANGUAGE", "LOCPATH", "SSLKEYLOGFILE"))


def is_read_at_start(variable: str) -> bool:
    """Whether an interpreter or its libraries read this environment variable only when they start. A Function that sets
    one is not eligible for a pool. An agent that gets one nevertheless starts a new runtime process."""
    return variable.startswith(_INTERPRETER) or variable in _INTERPRETER_NAMES


class Specialization:
    """What a pool pod becomes."""

    __slots__ = ("config", "env", "issued_at", "pod_uid", "request_id", "spec_hash")

    def __init__(
        self,
        *,
        pod_uid: str,
        request_id: str,
        spec_hash: str,
        issued_at: float,
        config: AgentConfig,
        env: Mapping[str, str],
    ) -> None:
        self.pod_uid = pod_uid
        self.request_id = request_id
        """Of the first invocation; also in the request's headers."""
        self.spec_hash = spec_hash
        """`pool.spec_hash` of the Function. It is not a revision, which the gateway cannot compute."""
        self.issued_at = issued_at
        """Seconds since the epoch."""
        self.config = config
        self.env = dict(env)
        """The Function's own variables, with the values that its process sees."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Specialization) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # `env` may change

    def __repr__(self) -> str:
        """Leaves out the values of variables, which may be secret."""
        name = f"{self.config.function_namespace}/{self.config.function_name}"
        return f"Specialization({name}, spec_hash={self.spec_hash!r}, pod_uid={self.pod_uid!r}, env={sorted(self.env)})"


class Received:
    """A request that was verified."""

    __slots__ = ("code", "payload", "specialization")

    def __init__(self, specialization: Specialization, code: bytes, payload: bytes) -> None:
        self.specialization = specialization
        self.code = code
        """A zip; empty: the code is inline, or the pod fetches it."""
        self.payload = payload


class Malformed(Exception):
    """The body has not this form: 400. The message says what is wrong with it."""


class Refused(Exception):
    """The request is not valid for this pod now: 403, with `wire.REFUSED: reason`. The pod stays free."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def encode(specialization: Specialization, *, code: bytes, payload: bytes, sign: Sign) -> bytes:
    """The request's body. Raises `ValueError` if it exceeds the limits above; the caller takes the Deployment path
    then."""
    signed = json.dumps(
        {
            "podUid": specialization.pod_uid,
            "requestId": specialization.request_id,
            "specHash": specialization.spec_hash,
            "issuedAt": specialization.issued_at,
            "config": specialization.config.to_env(),
            "env": specialization.env,
            "code": _digest(code),
            "payload": _digest(payload),
        },
        separators=(",", ":"),
    ).encode()
    if len(signed) > MAX_SIGNED_BYTES or len(code) > MAX_CODE_BYTES:
        raise ValueError(f"{len(signed)} bytes of config and {len(code)} of code are more than a pool pod takes")
    signature = sign(CONTEXT + signed)
    return b"".join(
        (len(signed).to_bytes(4, "big"), signed, len(signature).to_bytes(2, "big"), signature, code, payload)
    )


def read(body: bytes, *, pod_uid: str, now: float, agent_started: float, verify: Verify) -> Received:
    """The content of a body, after verifying that a gateway wrote it for this pod, recently.

    `now` and `agent_started` are seconds since the epoch. Raises `Malformed` and `Refused`.
    """
    signed, signature, rest = _split(body)
    if not verify(CONTEXT + signed, signature):
        raise Refused(wire.REFUSED_SIGNATURE, "the signature is not one of this installation's gateways")
    try:
        fields = json.loads(signed)
        issued_at = float(fields["issuedAt"])
        code_length, payload_length = int(fields["code"]["length"]), int(fields["payload"]["length"])
        hashes = str(fields["code"]["sha256"]), str(fields["payload"]["sha256"])
        specialization = Specialization(
            pod_uid=str(fields["podUid"]),
            request_id=str(fields["requestId"]),
            spec_hash=str(fields["specHash"]),
            issued_at=issued_at,
            config=AgentConfig.from_env(fields["config"]),
            env=_variables(fields["env"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"the signed part cannot be read: {type(error).__name__}: {error}") from None
    if specialization.pod_uid != pod_uid:
        raise Refused(wire.REFUSED_OTHER_POD, f"this is for the pod {specialization.pod_uid}, not for {pod_uid}")
    if not abs(now - issued_at) <= MAX_AGE or issued_at < agent_started - CLOCK_SKEW:
        raise Refused(
            wire.REFUSED_STALE,
            f"issued {now - issued_at:.1f} s ago by this node's clock, while the agent started"
            f" {now - agent_started:.1f} s ago: a request is valid for {MAX_AGE:.0f} s, and not for an agent that"
            " started after it was issued",
        )
    if code_length < 0 or payload_length < 0 or code_length + payload_length != len(rest):
        raise Refused(wire.REFUSED_ALTERED, "the lengths of the code and of the payload are not those that were signed")
    code, payload = bytes(rest[:code_length]), bytes(rest[code_length:])
    if (_sha256(code), _sha256(payload)) != hashes:
        raise Refused(wire.REFUSED_ALTERED, "the code or the payload is not what was signed")
    return Received(specialization, code, payload)


def _variables(env: Mapping[str, object]) -> dict[str, str]:
    """Raises `ValueError` for what an environment cannot hold."""
    for name, value in env.items():
        if not isinstance(value, str) or not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(f"env: {name!r} or its value cannot be in an environment")
    return dict(env)  # type: ignore[arg-type]  # each value is a string by now


def _split(body: bytes) -> tuple[bytes, bytes, memoryview]:
    """Signed part, signature, the rest. Raises `Malformed`."""
    view = memoryview(body)
    length = int.from_bytes(view[:4], "big")
    at = 4 + length
    signature_length = int.from_bytes(view[at : at + 2], "big")
    end = at + 2 + signature_length
    if length > MAX_SIGNED_BYTES or end > len(body):
        raise Malformed("the body is cut short, or is not a specialize request")
    return bytes(view[4:at]), bytes(view[at + 2 : end]), view[end:]


def _digest(content: bytes) -> dict[str, object]:
    return {"sha256": _sha256(content), "length": len(content)}


def _sha256(content: bytes) -> str:
    """Empty for no content: inline code and code that the pod fetches are not in the body."""
    return hashlib.sha256(content).hexdigest() if content else ""
