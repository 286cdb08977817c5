"""The request that makes a pool pod a Function's and runs its first event: `wire.SPECIALIZE_PATH`."""

from typing import TYPE_CHECKING, Final

from kappa_core import containers, pool, wire
from kappa_core.function import Function
from kappa_core.specialize import Specialization, encode

if TYPE_CHECKING:
    from kappa_core.agent_config import AgentConfig
    from kappa_core.specialize import Sign

_FIRST_LINE: Final = f"POST {wire.SPECIALIZE_PATH} HTTP/1.1\r\n".encode()
_LENGTH: Final = b"Content-Length: "


def config_of(function: Function, *, region: str, account: str) -> "AgentConfig":
    return containers.agent_config(function, containers.Platform(region=region, account=account))


def specialize_request(
    head: bytes,
    event: bytes,
    *,
    function: Function,
    config: "AgentConfig",
    pod_uid: str,
    request_id: str,
    code: bytes,
    now: float,
    sign: "Sign",
) -> bytes:
    """Head and body. `head` is what an ordinary invocation of this event has, its Content-Length last.

    Raises `ValueError` where the function is more than a pool pod takes.
    """
    body = encode(
        Specialization(
            pod_uid=pod_uid,
            request_id=request_id,
            spec_hash=pool.spec_hash(function),
            issued_at=now,
            config=config,
            env=pool.environment(function),
        ),
        code=code,
        payload=event,
        sign=sign,
    )
    fields = head[head.index(b"\r\n") + 2 : head.rindex(_LENGTH)]
    return b"%b%b%b%d\r\n\r\n%b" % (_FIRST_LINE, fields, _LENGTH, len(body), body)
