"""Places of `maxReplicas` that one gateway lends another: the request, and the lender's book.

A gateway whose share is used up asks one that has places left, naming the pool pod that it would claim. The lender counts
that pod as one of its own from then on, so all gateways together stay within `maxReplicas`. No loan is given back: the
lender sees what became of the pod.

The request, JSON and signed with the gateways' key: `{"lender": …, "borrower": …, "namespace": …, "function": …,
"pod": …, "podUid": …, "askedAt": seconds since the epoch}`.
"""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kappa_core import names
from kappa_gateway.state import FunctionState, PodStatus

LOAN_SECONDS: Final = 10.0
"""A pod that is nobody's that long after the loan will not be taken any more."""
USE_SECONDS: Final = 2.0
"""For the borrower, to send the pod its first request."""
_RELABEL_SECONDS: Final = 10.0
"""In which a pod that has left its pool must be seen as the function's."""
_STALE_SECONDS: Final = 60.0
CONTEXT: Final = b"kappa.run/loan/v1\0"
"""Before what is signed: the same key signs other messages too."""
MAX_BYTES: Final = 4096


class Refused(Exception):
    """The request is not to be believed; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoanRequest:
    lender: str
    borrower: str
    namespace: str
    function: str
    pod: str
    pod_uid: str
    asked_at: float
    """Seconds since the epoch."""


def encode(request: LoanRequest, sign: Callable[[bytes], bytes]) -> tuple[bytes, str]:
    """(body, value of `wire.SIGNATURE`)"""
    body = json.dumps(
        {
            "lender": request.lender,
            "borrower": request.borrower,
            "namespace": request.namespace,
            "function": request.function,
            "pod": request.pod,
            "podUid": request.pod_uid,
            "askedAt": request.asked_at,
        }
    ).encode()
    return body, base64.b64encode(sign(CONTEXT + body)).decode()


def read(
    body: bytes, signature: bytes, *, lender: str, now: float, verify: Callable[[bytes, bytes], bool]
) -> LoanRequest:
    """Raises `Refused` for what no gateway of this installation has signed, or not for `lender`, or long ago."""
    try:
        signed = verify(CONTEXT + body, base64.b64decode(signature, validate=True))
    except binascii.Error:
        signed = False
    if not signed:
        raise Refused("it is not signed with the gateways' key")
    try:
        said = json.loads(body)
        request = LoanRequest(
            lender=str(said["lender"]),
            borrower=str(said["borrower"]),
            namespace=str(said["namespace"]),
            function=str(said["function"]),
            pod=str(said["pod"]),
            pod_uid=str(said["podUid"]),
            asked_at=float(said["askedAt"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"it cannot be read: {error!r}") from None
    if request.lender != lender:
        raise Refused(f"it is for {request.lender}")
    if abs(now - request.asked_at) > _STALE_SECONDS:
        raise Refused("it was signed long ago, or the nodes' clocks differ")
    return request


class _Loan:
    __slots__ = ("function", "left_pool_at", "uid", "until")

    def __init__(self, function: str, uid: str, until: float) -> None:
        self.function = function
        self.uid = uid
        self.until = until
        self.left_pool_at: float | None = None


class Lent:
    """What this gateway has lent. `clock`: seconds, monotonic. `pool_state(namespace, pod)`: whether the pod is in a pool
    still, and if so, whether it is seen to be free."""

    def __init__(self, clock: Callable[[], float], pool_state: Callable[[str, str], tuple[bool, bool]]) -> None:
        self._clock = clock
        self._pool_state = pool_state
        self._loans: dict[tuple[str, str], _Loan] = {}

    def add(self, request: LoanRequest) -> None:
        until = self._clock() + LOAN_SECONDS
        self._loans[request.namespace, request.pod] = _Loan(_key(request), request.pod_uid, until)

    def drop(self, namespace: str, pod: str) -> None:
        """A pod of a function is gone."""
        self._loans.pop((namespace, pod), None)

    def has(self, request: LoanRequest) -> bool:
        """Whether this very loan was made before."""
        loan = self._loans.get((request.namespace, request.pod))
        return loan is not None and (loan.uid, loan.function) == (request.pod_uid, _key(request))

    def reserves(self, namespace: str, pod: str) -> bool:
        """Whether the pod is another gateway's to take."""
        loan = self._loans.get((namespace, pod))
        return loan is not None and self._clock() < loan.until

    def count(self, function: FunctionState) -> tuple[int, int]:
        """(places of this function that are lent, those of them whose pod is not among the function's yet)."""
        places = unseen = 0
        for key, loan in list(self._loans.items()):
            if loan.function != function.key:
                continue
            if not self._holds(key, loan, function):
                del self._loans[key]
                continue
            places += 1
            unseen += key[1] not in function.pods
        return places, unseen

    def _holds(self, key: tuple[str, str], loan: _Loan, function: FunctionState) -> bool:
        pod = function.pods.get(key[1])
        if pod is not None:
            return pod.status not in (PodStatus.DRAINING, PodStatus.GONE)
        now = self._clock()
        if now < loan.until:
            return True
        in_pool, free = self._pool_state(*key)
        if in_pool:
            # taken, and the platform does not show it yet: an operator may be away for long
            return not free
        loan.left_pool_at = loan.left_pool_at or now
        return now - loan.left_pool_at < _RELABEL_SECONDS


def _key(request: LoanRequest) -> str:
    return names.function_key(request.namespace, request.function)
