"""The body of `wire.SPECIALIZE_PATH`: what makes a pool pod a Function's, and the first event, in one request.

    u32 length | signed part | u16 length | signature | code | event            (lengths big-endian)

The signed part is JSON; it holds the hashes of the code and of the event, so nothing of the body can be altered, and the
uid of the pod, so it is good for that pod alone. The signature is Ed25519 over `CONTEXT` and the signed part. Who signs
and who verifies is the caller's: this module knows no cryptography beyond SHA-256.

    {"podUid": "…", "requestId": "…", "specHash": "…", "issuedAt": 1760000000.123,
     "config": {"KAPPA_FUNCTION_NAME": "hello", …}, "env": {"GREETING": "hi"},
     "code": {"sha256": "…", "length": 0}, "event": {"sha256": "…", "length": 17}}

`config` is `AgentConfig.to_env()`. Inline code is a part of it. Code in the body is a zip (an archive whose bytes the
gateway has); one over `MAX_CODE_BYTES` stays out, and `config` has its URL and hash. What belongs to the pod (its
address, its task root) the agent takes from its own `PoolConfig`. Standard library only: pool pods import it.
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
"""In front of what is signed: the key's signatures of anything else are good for nothing here."""
MAX_AGE: Final = 60.0
"""Seconds for which a request is good, by the clocks of two nodes: it may seem to be as much from the future."""
CLOCK_SKEW: Final = 5.0
"""Seconds by which nodes' clocks may differ: a request older than its agent was meant for another one in the same pod."""
MAX_CODE_BYTES: Final = 4 * 1024 * 1024
"""A larger archive is fetched by the pod."""
MAX_SIGNED_BYTES: Final = 2 * 1024 * 1024
"""Inline code and variables are in it; a Kubernetes object is at most 1.5 MiB."""
MAX_BODY_BYTES: Final = MAX_SIGNED_BYTES + MAX_CODE_BYTES + wire.MAX_REQUEST_BYTES + 1024

_INTERPRETER = ("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_")
_INTERPRETER_NAMES = frozenset(("LANG", "LANGUAGE", "LOCPATH", "SSLKEYLOGFILE"))


def is_read_at_start(variable: str) -> bool:
    """Whether an interpreter or its libraries read this environment variable when they start: one that runs already
    does not heed it. Such a function is not for the pool; an agent that gets one all the same starts its process anew."""
    return variable.startswith(_INTERPRETER) or variable in _INTERPRETER_NAMES


class Specialization:
    """What a pool pod is to become."""

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
        """Epoch seconds."""
        self.config = config
        self.env = dict(env)
        """The Function's own variables, values as its process is to see them."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Specialization) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # `env` may change

    def __repr__(self) -> str:
        """Without the values of variables, which may be secrets."""
        name = f"{self.config.function_namespace}/{self.config.function_name}"
        return f"Specialization({name}, spec_hash={self.spec_hash!r}, pod_uid={self.pod_uid!r}, env={sorted(self.env)})"


class Received:
    """A request that was found good."""

    __slots__ = ("code", "event", "specialization")

    def __init__(self, specialization: Specialization, code: bytes, event: bytes) -> None:
        self.specialization = specialization
        self.code = code
        """A zip; empty: inline, or to be fetched."""
        self.event = event


class Malformed(Exception):
    """The body is not one of these: 400. The message says what is wrong with it."""


class Refused(Exception):
    """The request is not for this pod now: 403, with `wire.REFUSED: reason`. The pod stays free."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def encode(specialization: Specialization, *, code: bytes, event: bytes, sign: Sign) -> bytes:
    """The request's body. Raises `ValueError` where it would be over the limits above: take the Deployment path."""
    signed = json.dumps(
        {
            "podUid": specialization.pod_uid,
            "requestId": specialization.request_id,
            "specHash": specialization.spec_hash,
            "issuedAt": specialization.issued_at,
            "config": specialization.config.to_env(),
            "env": specialization.env,
            "code": _digest(code),
            "event": _digest(event),
        },
        separators=(",", ":"),
    ).encode()
    if len(signed) > MAX_SIGNED_BYTES or len(code) > MAX_CODE_BYTES:
        raise ValueError(f"{len(signed)} bytes of config and {len(code)} of code are more than a pool pod takes")
    signature = sign(CONTEXT + signed)
    return b"".join((len(signed).to_bytes(4, "big"), signed, len(signature).to_bytes(2, "big"), signature, code, event))


def read(body: bytes, *, pod_uid: str, now: float, agent_started: float, verify: Verify) -> Received:
    """What a body says, once it is sure that a gateway wrote it for this pod, now.

    `now` and `agent_started` in epoch seconds. Raises `Malformed` and `Refused`.
    """
    signed, signature, rest = _split(body)
    if not verify(CONTEXT + signed, signature):
        raise Refused(wire.REFUSED_SIGNATURE, "the signature is not a gateway's of this installation")
    try:
        fields = json.loads(signed)
        issued_at = float(fields["issuedAt"])
        code_length, event_length = int(fields["code"]["length"]), int(fields["event"]["length"])
        hashes = str(fields["code"]["sha256"]), str(fields["event"]["sha256"])
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
            f"issued {now - issued_at:.1f} s ago by this node's clock, {now - agent_started:.1f} s after the agent's start:"
            f" at most {MAX_AGE:.0f} s, and for this start alone",
        )
    if code_length < 0 or event_length < 0 or code_length + event_length != len(rest):
        raise Refused(wire.REFUSED_ALTERED, "the code and the event are not as long as was signed")
    code, event = bytes(rest[:code_length]), bytes(rest[code_length:])
    if (_sha256(code), _sha256(event)) != hashes:
        raise Refused(wire.REFUSED_ALTERED, "the code or the event is not what was signed")
    return Received(specialization, code, event)


def _variables(env: Mapping[str, object]) -> dict[str, str]:
    """Raises `ValueError` for what no environment can hold."""
    for name, value in env.items():
        if not isinstance(value, str) or not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(f"env: {name!r} or its value can be no variable's")
    return dict(env)  # type: ignore[arg-type]  # each value was looked at


def _split(body: bytes) -> tuple[bytes, bytes, memoryview]:
    """Signed part, signature, the rest. Raises `Malformed`."""
    view = memoryview(body)
    length = int.from_bytes(view[:4], "big")
    at = 4 + length
    signature_length = int.from_bytes(view[at : at + 2], "big")
    end = at + 2 + signature_length
    if length > MAX_SIGNED_BYTES or end > len(body):
        raise Malformed("it is cut short, or no specialize request at all")
    return bytes(view[4:at]), bytes(view[at + 2 : end]), view[end:]


def _digest(content: bytes) -> dict[str, object]:
    return {"sha256": _sha256(content), "length": len(content)}


def _sha256(content: bytes) -> str:
    """Empty for nothing: inline code and code to be fetched have none here."""
    return hashlib.sha256(content).hexdigest() if content else ""
