"""Trying each new pod template once, so that broken code or a wrong image shows within seconds of `kubectl apply`.

A try asks the scaler to hold one pod; the status, derived from that pod, is the verdict. At most `concurrency` tries
run at a time. A template that cannot start is tried again, with growing delays, since what is missing may come. A
template whose code does not load is not: an invocation will start it anyway.
"""

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kappa_core.function import Function, FunctionStatus
from kappa_core.reasons import ConditionType, Reason

logger = logging.getLogger(__name__)

LINGER_SECONDS: Final = 20.0
"""A pod that cannot start stays this long: the kubelet tries again by itself, and the Secret may be about to come."""
FIRST_RETRY: Final = 30.0
LONGEST_RETRY: Final = 300.0

_NO_POD_HELPS: Final = frozenset(
    {Reason.INVALID_SPEC, Reason.UNKNOWN_RUNTIME, Reason.CONFIG_MAP_NOT_FOUND, Reason.DEPLOYMENT_CONFLICT}
)


class Holder(Protocol):
    def hold(self, key: str) -> None: ...
    def release(self, key: str) -> None: ...


@dataclass(slots=True)
class _Try:
    revision: str
    attempts: int = 0
    state: str = "queued"
    """queued → active → lingering → resting → queued …"""
    timer: asyncio.TimerHandle | None = None


class Verifier:
    def __init__(
        self,
        scaler: Holder,
        concurrency: int,
        timeout: float,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self._scaler = scaler
        self._concurrency = concurrency
        self._timeout = timeout
        self._call_later = call_later or (lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        self._tries: dict[str, _Try] = {}
        self._queue: deque[str] = deque()
        self._active: set[str] = set()

    def __len__(self) -> int:
        """Templates that have no verdict yet."""
        return len(self._tries)

    def consider(self, key: str, function: Function, status: FunctionStatus, revision: str, *, failing: bool) -> None:
        """Called with every derived status: begin a try, take its verdict, or let it go.

        `failing`: a pod of this revision fails now; the status also remembers what an earlier one reported.
        """
        if not self._concurrency:
            return
        scaling = function.spec.scaling
        ready = next((c for c in status.conditions if c.type == ConditionType.READY), None)
        needless = scaling.min_replicas > 0 or scaling.max_replicas == 0
        hopeless = ready is not None and ready.status == "False" and ready.reason in _NO_POD_HELPS
        if not revision or needless or hopeless or status.verified_revision == revision:
            self.forget(key)
            return
        attempt = self._tries.get(key)
        if attempt is None or attempt.revision != revision:
            self.forget(key)
            self._tries[key] = _Try(revision)
            self._queue.append(key)
            self._pump()
        elif attempt.state == "active" and failing:
            self._linger(key, attempt)

    def forget(self, key: str) -> None:
        """There is a verdict, or nothing to try."""
        attempt = self._tries.pop(key, None)
        if attempt is None:
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.state in ("active", "lingering"):
            self._scaler.release(key)
        self._active.discard(key)
        self._pump()

    def stop(self) -> None:
        for attempt in self._tries.values():
            if attempt.timer is not None:
                attempt.timer.cancel()
        self._tries.clear()
        self._queue.clear()

    def _pump(self) -> None:
        while self._queue and len(self._active) < self._concurrency:
            key = self._queue.popleft()
            attempt = self._tries.get(key)
            if attempt is None or attempt.state != "queued":
                continue
            attempt.state = "active"
            self._active.add(key)
            attempt.timer = self._call_later(self._timeout, functools.partial(self._rest, key, attempt))
            self._scaler.hold(key)

    def _linger(self, key: str, attempt: _Try) -> None:
        """It cannot start: make room for others, but leave the pod a while."""
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.state = "lingering"
        self._active.discard(key)
        attempt.timer = self._call_later(LINGER_SECONDS, lambda: self._rest(key, attempt))
        self._pump()

    def _rest(self, key: str, attempt: _Try) -> None:
        if self._tries.get(key) is not attempt:
            return
        delay = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(attempt.attempts, 10))
        attempt.attempts += 1
        attempt.state = "resting"
        self._active.discard(key)
        self._scaler.release(key)
        attempt.timer = self._call_later(delay, lambda: self._again(key, attempt))
        logger.info("a pod template has not started yet", extra={"function": key, "next_try_in": delay})
        self._pump()

    def _again(self, key: str, attempt: _Try) -> None:
        if self._tries.get(key) is attempt:
            attempt.state = "queued"
            self._queue.append(key)
            self._pump()
