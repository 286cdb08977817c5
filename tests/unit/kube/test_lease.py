"""One leader at a time, by the Lease: taking over, giving up in time, and never writing without it."""

import asyncio
import copy
from typing import Any

import pytest

from kappa_kube.connection import Json
from kappa_kube.errors import ApiError, Disconnected, LeaseLost
from kappa_kube.lease import Lease, LeaseTimes

TIMES = LeaseTimes(duration=10.0, renew_deadline=7.0, retry=1.5)


class LeaseServer:
    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.down = False

    async def get(self, path: str) -> Json:
        if self.down:
            raise Disconnected("unreachable")
        if self.lease is None:
            raise ApiError(404, "NotFound", "no lease")
        return copy.deepcopy(self.lease)

    async def create(self, path: str, body: Json, *, timeout: float) -> Json:
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", "exists")
        return self._write(body)

    async def replace(self, path: str, body: Json, *, timeout: float) -> Json:
        if self.lease is None or body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "changed")
        return self._write(body)

    def _write(self, body: Json) -> Json:
        if self.down:
            raise Disconnected("unreachable")
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


def candidate(server: LeaseServer, clock: Any, name: str) -> Lease:
    return Lease(server, "system", "kappa", name, TIMES, clock=clock, sleep=clock.sleep)


async def test_the_first_one_leads_and_the_second_waits(server: LeaseServer, clock: Any) -> None:
    one, two = candidate(server, clock, "one"), candidate(server, clock, "two")
    await one.acquire()
    assert one.held()
    assert not await two.attempt()
    assert two.holder == "one"


async def test_a_silent_leader_is_replaced_only_after_the_duration(server: LeaseServer, clock: Any) -> None:
    one, two = candidate(server, clock, "one"), candidate(server, clock, "two")
    await one.acquire()
    assert not await two.attempt()
    clock.advance(9.9)
    assert not await two.attempt()
    assert not one.held(), "it gave up before anybody may take over"
    clock.advance(0.2)
    assert await two.attempt()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 2


async def test_renewing_keeps_others_away(server: LeaseServer, clock: Any) -> None:
    one, two = candidate(server, clock, "one"), candidate(server, clock, "two")
    await one.acquire()
    for _ in range(10):
        clock.advance(5.0)
        assert await one.attempt()
        assert not await two.attempt()


async def test_a_leader_that_cannot_renew_stops_before_the_lease_runs_out(server: LeaseServer, clock: Any) -> None:
    lease = candidate(server, clock, "one")
    await lease.acquire()
    started = clock()
    server.down = True
    with pytest.raises(LeaseLost, match="could not be renewed"):
        await lease.keep()
    assert clock() - started <= TIMES.duration - 1


async def test_a_leader_whose_lease_was_taken_stops(server: LeaseServer, clock: Any) -> None:
    lease = candidate(server, clock, "one")
    await lease.acquire()
    assert server.lease is not None
    server.lease["spec"]["holderIdentity"] = "thief"
    server.lease["metadata"]["resourceVersion"] = "99"
    with pytest.raises(LeaseLost, match="'thief'"):
        await lease.keep()


async def test_a_short_outage_is_survived(server: LeaseServer, clock: Any) -> None:
    lease = candidate(server, clock, "one")
    await lease.acquire()
    server.down = True
    keeping = asyncio.create_task(lease.keep())
    while clock() < lease.held_until - 4:  # noqa: ASYNC110 - the clock moves with each turn of the event loop
        await asyncio.sleep(0)
    server.down = False
    before = lease.held_until
    while lease.held_until == before:
        assert not keeping.done()
        await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_released_lease_is_taken_at_once_and_fences_writes(server: LeaseServer, clock: Any) -> None:
    one, two = candidate(server, clock, "one"), candidate(server, clock, "two")
    await one.acquire()
    await one.release()
    assert not one.held()
    assert await two.attempt()


async def test_a_lost_lease_is_not_released_from_under_its_new_holder(server: LeaseServer, clock: Any) -> None:
    one, two = candidate(server, clock, "one"), candidate(server, clock, "two")
    await one.acquire()
    await two.attempt()
    clock.advance(11)
    assert await two.attempt()
    await one.release()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "two"


async def test_two_that_take_it_at_once_do_not_both_lead(server: LeaseServer, clock: Any) -> None:
    leases = [candidate(server, clock, name) for name in ("one", "two", "three")]
    won = await asyncio.gather(*(lease.attempt() for lease in leases))
    assert sum(won) == 1


def test_times_that_would_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="must grow"):
        LeaseTimes(duration=5, renew_deadline=7, retry=1)
