"""The request that gives a pool pod its Function and runs the first invocation there: `wire.SPECIALIZE_PATH`."""

import time
from collections.abc import Callable
from typing import Final

from kappa_core import containers, pool, wire
from kappa_core.function import Function
from kappa_core.specialize import Specialization, encode
from kappa_gateway.pods.state import PodState
from kappa_gateway.pods.warm.code import CodeCache

_FIRST_LINE: Final = f"POST {wire.SPECIALIZE_PATH} HTTP/1.1\r\n".encode()
_LENGTH: Final = b"Content-Length: "
START_TIMEOUT: Final = 15.0
"""Seconds on top of an invocation's in which a pool pod starts the function's process (the agent's own limit is 10)."""
FETCH_TIMEOUT: Final = 125.0
"""The same where the pod fetches an archive itself."""


class Specializer:
    """`clock` gives seconds since the epoch."""

    def __init__(
        self,
        sign: Callable[[bytes], bytes],
        code: CodeCache,
        *,
        region: str,
        account: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sign = sign
        self._code = code
        self._platform = containers.Platform(region=region, account=account)
        self._clock = clock

    def request(self, pod: PodState, request_id: str, head: bytes, event: bytes) -> tuple[bytes, str]:
        """Head and body, and the hash of the spec that the pod is specialized for.

        `head` and `event` are an ordinary invocation's; `head` has its Content-Length last. Raises `ValueError` if the
        function is too large for this request.
        """
        function = pod.function.manifest
        if function is None or pod.claim is None:
            raise ValueError("the Function is gone")
        config = containers.agent_config(function, self._platform)
        code = b""
        if function.spec.code.archive is not None:
            code, config = self._code.for_pod(function.spec.code.archive, config)
        spec_hash = pool.spec_hash(function)
        body = encode(
            Specialization(
                pod_uid=pod.claim.pod.uid,
                request_id=request_id,
                spec_hash=spec_hash,
                issued_at=self._clock(),
                config=config,
                env=pool.environment(function),
            ),
            code=code,
            payload=event,
            sign=self._sign,
        )
        fields = head[head.index(b"\r\n") + 2 : head.rindex(_LENGTH)]
        return b"%b%b%b%d\r\n\r\n%b" % (_FIRST_LINE, fields, _LENGTH, len(body), body), spec_hash

    @staticmethod
    def start_timeout(function: Function | None) -> float:
        """Seconds that the request may take on top of the function's timeout."""
        return FETCH_TIMEOUT if function is not None and function.spec.code.archive is not None else START_TIMEOUT
