"""Leader election over HTTP: the lease, the client and its fence together."""

import json
from typing import Any

import pytest
from aiohttp import web
from fake_clock import FakeClock
from scripted_server import ScriptedServer

from kappa_kube import paths
from kappa_kube.client import Client
from kappa_kube.connection import Connection
from kappa_kube.errors import Disconnected, NotLeader
from kappa_kube.lease import Lease, LeaseTimes

TIMES = LeaseTimes(duration=10.0, renew_deadline=7.0, retry=1.5)


@pytest.fixture
def stored(server: ScriptedServer) -> dict[str, Any]:
    """The Lease's endpoint, with Kubernetes' answers to what is there already and to an old resourceVersion."""
    stored: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        sent = json.loads(server.bodies[-1] or "null")
        if request.path.endswith("/pods/p"):
            return web.json_response({})
        known = stored.get("lease")
        if request.method == "GET":
            return web.json_response(known or {"reason": "NotFound", "message": "no"}, status=200 if known else 404)
        version = known and known["metadata"]["resourceVersion"]
        if sent["metadata"].get("resourceVersion") != version:
            return web.json_response({"reason": "Conflict", "message": "changed"}, status=409)
        stored["lease"] = {**sent, "metadata": {**sent["metadata"], "resourceVersion": str(int(version or 0) + 1)}}
        return web.json_response(stored["lease"])

    server.handler = handler
    return stored


def candidate(connection: Connection, clock: FakeClock, name: str) -> Lease:
    return Lease(Client(connection, "kappa-operator"), "system", "kappa", name, TIMES, clock=clock, sleep=clock.sleep)


async def test_one_leads_and_the_next_takes_over_what_it_released(
    stored: dict[str, Any], server: ScriptedServer, connection: Connection
) -> None:
    clock = FakeClock()
    one, two = candidate(connection, clock, "one"), candidate(connection, clock, "two")
    await one.acquire()
    created = server.requests[-1]
    assert (created.method, created.path) == ("POST", paths.collection(paths.LEASES, "system"))
    assert not await two.attempt()
    assert await one.attempt(), "it renews"
    await one.release()
    assert stored["lease"]["spec"]["holderIdentity"] == ""
    await two.acquire()
    assert stored["lease"]["spec"]["holderIdentity"] == "two"
    assert stored["lease"]["spec"]["leaseTransitions"] == 2


@pytest.mark.usefixtures("stored")
async def test_a_leader_that_stalls_can_write_nothing_more(connection: Connection) -> None:
    clock = FakeClock()
    lease = candidate(connection, clock, "one")
    api = Client(connection, "kappa-operator", lease.held)
    with pytest.raises(NotLeader):
        await api.merge_patch("/api/v1/namespaces/default/pods/p", {})
    await lease.acquire()
    await api.merge_patch("/api/v1/namespaces/default/pods/p", {})
    clock.advance(TIMES.renew_deadline)
    with pytest.raises(NotLeader):
        await api.merge_patch("/api/v1/namespaces/default/pods/p", {})


@pytest.mark.usefixtures("stored")
async def test_a_server_that_goes_away_is_a_failed_request(server: ScriptedServer, connection: Connection) -> None:
    lease = candidate(connection, FakeClock(), "one")
    await server.__aexit__()
    with pytest.raises(Disconnected):
        await lease.attempt()
    assert not lease.held()
