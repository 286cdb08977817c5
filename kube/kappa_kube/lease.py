"""Leader election by a Lease (coordination.k8s.io/v1), as client-go does it.

Who holds the Lease leads. The holder renews it every `retry` seconds. When that has failed for `renew_deadline` seconds
it stops leading, before another replica may take the Lease after `duration` seconds without a renewal. The others
measure that by their own clock, from when they saw the Lease change last, so clocks need not agree.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from kappa_kube import paths
from kappa_kube.clock import Clock, Sleep
from kappa_kube.connection import Json
from kappa_kube.errors import ApiError, LeaseLost, RequestFailed

logger = logging.getLogger(__name__)

JITTER: Final = 0.2
_RELEASE_SECONDS: Final = 2.0


class LeaseApi(Protocol):
    """The part of `client.Client` that a Lease needs; without a fence, for the Lease decides who may write."""

    async def get(self, path: str) -> Json: ...
    async def create(self, path: str, body: Json, *, timeout: float) -> Json: ...
    async def replace(self, path: str, body: Json, *, timeout: float) -> Json: ...


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds; retry < renew deadline < duration."""

    duration: float
    renew_deadline: float
    retry: float

    def __post_init__(self) -> None:
        if not self.retry < self.renew_deadline < self.duration:
            raise ValueError(
                f"lease times must grow from retry_period ({self.retry}) over renew_deadline ({self.renew_deadline})"
                f" to lease_duration ({self.duration})"
            )


class Lease:
    """`acquire()`, then `keep()` until it raises `LeaseLost` or is cancelled, then `release()`.

    `held()` is the fence: True while no other replica can have the Lease.
    """

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock
        self._sleep = sleep
        self._now = now
        self._path = paths.item(paths.LEASES, namespace, name)
        self._seen: tuple[str, float] | None = None
        """The Lease's resourceVersion, and when it was first seen."""
        self._lease: Json = {}
        self.held_until = 0.0
        """By the clock."""
        self.holder = ""

    def held(self) -> bool:
        return self._clock() < self.held_until

    async def acquire(self) -> None:
        """Return once this replica leads."""
        logged = ""
        while True:
            try:
                if await self.attempt():
                    logger.info("leading", extra={"identity": self._identity})
                    return
                if self.holder != logged:
                    logged = self.holder
                    logger.info("standing by", extra={"leader": logged, "identity": self._identity})
            except RequestFailed as error:
                logger.warning("cannot get the Lease, will try again", extra={"error": str(error)})
            await self._sleep(self._times.retry * (1 + JITTER * random.random()))  # noqa: S311 - jitter

    async def keep(self) -> None:
        """Renew for as long as that works. Raises `LeaseLost`."""
        while True:
            await self._sleep(min(self._times.retry, max(0.0, self.held_until - self._clock())))
            left = self.held_until - self._clock()
            if left <= 0:
                raise LeaseLost(f"the Lease {self._name!r} could not be renewed for {self._times.renew_deadline} s")
            try:
                async with asyncio.timeout(left):
                    if not await self.attempt():
                        raise LeaseLost(f"the Lease {self._name!r} was taken by {self.holder!r}")
            except (RequestFailed, TimeoutError) as error:
                logger.warning("cannot renew the Lease, will try again", extra={"error": str(error)})

    async def release(self) -> None:
        """Give it up, so that another replica need not wait for it to run out. Best effort."""
        if not self.held():
            return
        self.held_until = 0.0
        spec = {**self._lease.get("spec", {}), "holderIdentity": "", "leaseDurationSeconds": 1}
        with contextlib.suppress(RequestFailed):
            await self._api.replace(self._path, {**self._lease, "spec": spec}, timeout=_RELEASE_SECONDS)
            logger.info("Lease released", extra={"identity": self._identity})

    async def attempt(self) -> bool:
        """Create, take or renew it, once; False if another replica holds it. Raises `RequestFailed`."""
        started = self._clock()
        try:
            lease = await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            lease = {}
        if lease and not self._may_take(lease):
            return False
        spec = lease.get("spec", {})
        mine = spec.get("holderIdentity") == self._identity
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body: Json = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata", {"name": self._name, "namespace": self._namespace}),
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._times.duration)),
                "acquireTime": spec.get("acquireTime", stamp) if mine else stamp,
                "renewTime": stamp,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if mine else 1),
            },
        }
        try:
            if lease:
                self._lease = await self._api.replace(self._path, body, timeout=self._times.retry)
            else:
                leases = paths.collection(paths.LEASES, self._namespace)
                self._lease = await self._api.create(leases, body, timeout=self._times.retry)
        except ApiError as error:
            if error.status == 409:
                # Another replica was faster, or it changed in between: the next attempt shows who holds it.
                return self.held()
            raise
        self.holder = self._identity
        self.held_until = started + self._times.renew_deadline
        return True

    def _may_take(self, lease: Json) -> bool:
        spec = lease.get("spec", {})
        version = lease["metadata"].get("resourceVersion", "")
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        self.holder = spec.get("holderIdentity") or ""
        if self.holder in ("", self._identity):
            return True
        return self._clock() >= self._seen[1] + float(spec.get("leaseDurationSeconds", self._times.duration))
