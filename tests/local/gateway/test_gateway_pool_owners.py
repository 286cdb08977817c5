"""Several gateways: one claims for each function, the others pass requests on to it over its real internal port."""

import asyncio
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from nats_server import NatsServer
from pool_pods import PRIVATE_KEY, RUNTIME, FakePoolPod, pool_function

from kappa_core import pool, wire
from kappa_gateway.events import discovery
from kappa_gateway.pods.platform import Peer, Pod
from kappa_gateway.pods.state import PodStatus
from kappa_gateway.pods.warm import ownership
from kappa_gateway.pods.warm.signing import Signer


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Gateways:
    """Several, at 127.0.0.1, .2, …, who all see the same pods. `owner` claims for default/hello."""

    def __init__(self, tools, runs, port):
        self.tools, self.port = tools, port
        self.runs = runs
        owner = pool.owner("default/hello", [run.gateway.settings.name for run in runs])
        (self.owner,) = [run for run in runs if run.gateway.settings.name == owner]
        self.others = [run for run in runs if run is not self.owner]
        self.pods = []

    def function(self, run):
        return run.gateway.functions.get("default", "hello")

    def free(self, run):
        return run.gateway.warm.free_pods.free("default", RUNTIME)

    async def add(self, **how):
        number = len(self.pods)
        made = FakePoolPod(self.tools, f"pool-{number}", f"uid-{number}", **how)
        await made.start()
        self.pods.append(made)
        self.runs[0].pods.append(made.pod)
        for run in self.runs:
            before = self.free(run)
            run.sink.put_pool_pod(made.as_pool_pod)
            await self.tools.eventually(lambda run=run, before=before: self.free(run) > before)
        return made

    def show(self, made, to):
        """The platform shows the pod as the function's."""
        for run in to:
            run.sink.put_pod(Pod("default", made.name, "hello", "127.0.0.1", made.pod.port, 1, "lambda"))
            run.sink.remove_pool_pod("default", made.name)

    @property
    def taken(self):
        return [made.name for made in self.pods if made.taken is not None]

    def counted(self, run):
        return dict(self.function(run).counts.invocations)


@pytest.fixture
async def gateways(tools, monkeypatch):
    monkeypatch.setattr(ownership, "HANDOVER", 0.0)

    @asynccontextmanager
    async def make(count=2, settings=None, **spec):
        port = free_port()
        async with AsyncExitStack() as stack:
            runs = []
            for number in range(1, count + 1):
                backend = tools.backend()
                backend.functions = [pool_function(tools, **spec)]
                own = {"host": f"127.0.0.{number}", "internal_port": port, "name": f"gateway-{number}"}
                runs.append(
                    await stack.enter_async_context(
                        tools.running(
                            backend, pool_private_key=PRIVATE_KEY, pool_peers_namespace="x", **own, **(settings or {})
                        )
                    )
                )
            for run in runs:
                run.sink.replace_peers([Peer(f"gateway-{n}", f"127.0.0.{n}") for n in range(1, count + 1)])
            yield Gateways(tools, runs, port)

    return make


async def test_a_cold_start_at_another_gateway_is_passed_on_to_the_one_that_claims(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        made = await both.add()
        got = await other.invoke(body=b'{"n":1}', X_Amzn_Trace_Id="Root=1-a")
        assert (got.status, got.json()) == (200, {"n": 1})
        assert got.header(wire.COLD_START).startswith("pool;")
        assert got.header("X-Amz-Executed-Version") == "$LATEST"
        request, received = made.received[0]
        assert received.payload == b'{"n":1}'
        assert request.headers[wire.REQUEST_ID.lower()] == got.header("x-amzn-requestid")
        assert request.headers["x-amzn-trace-id"] == "Root=1-a"
        # the gateway that was asked counts the invocation, the other one the cold start
        assert both.counted(other) == {("RequestResponse", "success"): 1}
        assert both.counted(both.owner) == {}
        assert both.function(both.owner).counts.cold_starts == {("Pool", "claimed"): 1}


async def test_the_call_after_a_cold_start_is_warm_at_every_gateway_though_not_all_know_the_pod(gateways):
    async with gateways(3, scaling={"maxReplicas": 1}) as all_three:
        made = await all_three.add()
        for number, run in enumerate([all_three.owner, *all_three.others, *all_three.others]):
            got = await run.invoke(body=b"%d" % number)
            assert (got.status, got.json()) == (200, number)
            assert (got.header(wire.COLD_START) is None) == (number > 0)
        assert len(made.received) == 1
        # once they know the pod they ask it themselves
        all_three.show(made, all_three.runs)
        other = all_three.others[0]
        await all_three.tools.eventually(lambda: all_three.function(other).serving)
        before = len(made.pod.requests)
        owners_pod = all_three.function(all_three.owner).pods[made.name]
        assert (await other.invoke(body=b"7")).json() == 7
        assert len(made.pod.requests) == before + 1
        assert owners_pod.outstanding == 0


@pytest.mark.parametrize("most", [1, 2, 3, 5])
async def test_bursts_at_all_gateways_together_stay_within_max_replicas_and_use_it_up(gateways, most):
    """Long requests at three gateways at once; two of them see none of the pods."""
    async with gateways(3, scaling={"maxReplicas": most}) as all_three:
        hold = asyncio.Event()
        for _ in range(6):
            await all_three.add(hold=hold)
        asked = [asyncio.create_task(all_three.others[0].invoke()) for _ in range(8)]
        for run in all_three.runs:
            asked += [asyncio.create_task(run.invoke()) for _ in range(3)]
        await all_three.tools.eventually(lambda: len(all_three.taken) >= most)
        function = all_three.function(all_three.owner)
        await all_three.tools.eventually(lambda: len(function.waiters) == len(asked) - most)
        assert len(all_three.taken) == most
        hold.set()
        assert {one.status for one in await asyncio.gather(*asked)} == {200}
        assert len(all_three.taken) == most


async def test_a_pod_that_the_deployment_began_in_place_of_the_claimed_one_gets_nothing(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        hold = asyncio.Event()
        made = await both.add(hold=hold)
        first = asyncio.create_task(both.owner.invoke(body=b"1"))
        await both.tools.eventually(lambda: made.taken is not None)
        both.show(made, both.runs)
        twins, asked = [], []
        for run in both.runs:
            function = both.function(run)
            await both.tools.eventually(lambda function=function: function.serving)
            twins.append(await run.add_pod(name="twin"))
            twin = function.pods["twin"]
            await both.tools.eventually(lambda twin=twin: twin.status is PodStatus.READY)
            asked += [asyncio.create_task(run.invoke(body=b"2")) for _ in range(3)]
            await both.tools.eventually(lambda function=function: function.waiters)
            assert list(function.serving) == [function.pods[made.name]]
        hold.set()
        assert {(await one).status for one in [first, *asked]} == {200}
        assert [twin.requests for twin in twins] == [[], []]


async def test_where_the_gateway_that_claims_is_away_the_request_waits_for_the_deployment(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        await both.add()
        names = [run.gateway.settings.name for run in both.runs]
        other.sink.replace_peers([Peer(name, "127.0.0.9") for name in names])
        waiting = asyncio.create_task(other.invoke(body=b"1"))
        await both.tools.eventually(lambda: both.function(other).waiters)
        await other.add_pod()
        assert (await waiting).json() == 1
        assert both.taken == []


async def test_its_errors_are_the_callers(gateways):
    async with gateways(settings={"max_waiting_requests": 1, "max_wait": 60.0}, scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        hold = asyncio.Event()
        made = await both.add(hold=hold)
        running = asyncio.create_task(both.owner.invoke())
        await both.tools.eventually(lambda: made.taken is not None)
        waiting = asyncio.create_task(both.owner.invoke())
        await both.tools.eventually(lambda: both.function(both.owner).waiters)
        got = await other.invoke()
        assert (got.status, got.header("x-amzn-errortype")) == (429, "TooManyRequestsException")
        assert got.json()["Reason"] == "ConcurrentInvocationLimitExceeded"
        assert int(got.header("retry-after")) >= 1
        assert both.counted(other) == {("RequestResponse", "throttled"): 1}
        hold.set()
        assert {one.status for one in await asyncio.gather(running, waiting)} == {200}


async def test_a_pod_that_is_lost_is_an_error_and_no_second_run(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        made = await both.add(break_off=True)
        got = await other.invoke(body=b"1")
        assert (got.status, got.header("x-amzn-errortype")) == (500, "ServiceException")
        assert "may have run" in got.json()["Message"]
        assert len(made.received) == 1


async def test_a_caller_that_leaves_frees_the_slot_at_the_gateway_that_claims(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        made = await both.add(hold=asyncio.Event())
        client = await other.connect()
        await client.send(
            b"POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1"
        )
        await both.tools.eventually(lambda: made.received)
        assert both.function(other).passed_on == 1
        await client.close()
        await both.tools.eventually(lambda: not both.function(both.owner).in_flight)
        assert both.function(other).passed_on == 0
        made.hold.set()


async def test_large_bodies_go_both_ways(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        await both.add()
        body = b'"' + b"x" * 3_000_000 + b'"'
        assert (await other.invoke(body=body)).body == body


async def test_only_a_gateway_can_pass_requests_on(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        await both.add()
        url = f"http://{both.owner.gateway.settings.host}:{both.port}"
        other_key = Signer(bytes(32))
        now = int(time.time())

        def proof(signer, seconds, key="default/hello", request_id="r-1"):
            return f"{seconds}.{signer.prove(f'{seconds} {request_id} {key}'.encode())}"

        own = both.owner.gateway.warm.signer
        refused = [
            "",
            "x",
            f"{now}.",
            f"{now}.00",
            proof(other_key, now),
            proof(own, now - 3600),
            proof(own, now, "a/b"),
        ]
        async with aiohttp.ClientSession() as session:
            for path in (wire.INVOKE_PATH, wire.BACKLOG_PATH):
                for given in refused:
                    headers = {wire.PEER_PROOF: given, wire.FUNCTION: "default/hello", wire.REQUEST_ID: "r-1"}
                    async with session.post(url + path, data=b"1", headers=headers) as answer:
                        assert answer.status == 403, (given, await answer.text())
                        assert "refused" in (await answer.json())["Message"]
            assert both.taken == []
            headers = {wire.PEER_PROOF: proof(own, now), wire.FUNCTION: "default/hello", wire.REQUEST_ID: "r-1"}
            async with session.post(url + wire.INVOKE_PATH, data=b"1", headers=headers) as answer:
                assert (answer.status, await answer.text()) == (200, "1")
            async with session.get(url + wire.INVOKE_PATH) as answer:
                assert answer.status == 404


async def test_a_function_moves_to_another_gateway_without_a_pod_too_many(gateways, monkeypatch):
    """The one that claimed goes; the next one claims only once it must have seen what that one claimed."""
    async with gateways(scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        for _ in range(2):
            await both.add()
        assert (await both.owner.invoke(body=b"1")).json() == 1
        (made,) = [one for one in both.pods if one.taken is not None]
        monkeypatch.setattr(ownership, "HANDOVER", 1000.0)
        name = other.gateway.settings.name
        other.sink.replace_peers([Peer(name, other.gateway.settings.host)])
        waiting = asyncio.create_task(other.invoke(body=b"2"))
        await both.tools.eventually(lambda: both.function(other).waiters)
        assert len(both.taken) == 1
        both.show(made, [other])
        assert (await waiting).json() == 2
        assert len(both.taken) == 1


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


async def test_events_are_received_by_the_gateway_that_claims_whichever_accepts_them(
    gateways, nats_server, monkeypatch
):
    # only the notice from the gateway that accepts an event can be in time
    monkeypatch.setattr(discovery, "DISCOVERY_INTERVAL", 600.0)
    async with gateways(settings={"queue_url": nats_server.url}, scaling={"maxReplicas": 1}) as both:
        (other,) = both.others
        made = await both.add()
        for number in range(3):
            got = await other.invoke(body=b"%d" % number, X_Amz_Invocation_Type="Event")
            assert got.status == 202
            await both.tools.eventually(
                lambda number=number: both.counted(both.owner) == {("Event", "success"): number + 1}
            )
        assert both.counted(other) == {}
        assert both.function(both.owner).counts.cold_starts == {("Pool", "claimed"): 1}
        # once it has a pod of its own it receives events too
        both.show(made, both.runs)
        await both.tools.eventually(lambda: both.function(other).serving)
        await both.tools.eventually(lambda: not len(both.owner.gateway.events.lanes))
        assert (await other.invoke(body=b"3", X_Amz_Invocation_Type="Event")).status == 202
        await both.tools.eventually(lambda: both.counted(other) == {("Event", "success"): 1})
