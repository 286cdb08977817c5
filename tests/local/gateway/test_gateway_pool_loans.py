"""Gateways that lend each other places of `maxReplicas`, over their real internal ports."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from pool_pods import PRIVATE_KEY, RUNTIME, FakePoolPod, pool_function

from kappa_core import pool, wire
from kappa_core.metrics import ColdStartReason
from kappa_gateway.backend import Peer, Pod
from kappa_gateway.pools.loans import MAX_BYTES
from kappa_gateway.pools.signing import Signer


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Gateways:
    """Several, at 127.0.0.1, .2, …, who all see the same pods: `ranked` has the one with the largest share first."""

    def __init__(self, tools, runs, port):
        self.tools, self.port = tools, port
        self.runs = runs
        names = [run.gateway.settings.name for run in runs]
        self.ranked = sorted(runs, key=lambda run: pool.rank("default/hello", run.gateway.settings.name, names))
        self.pods = []

    def function(self, run):
        return run.gateway.registry.get("default", "hello")

    @staticmethod
    def borrower(run):
        return run.gateway.pools.sharing._borrower

    def free(self, run):
        return run.gateway.pools.vacancies.free("default", RUNTIME)

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
        """The platform says that the pod is the function's."""
        for run in to:
            run.sink.put_pod(Pod("default", made.name, "hello", "127.0.0.1", made.pod.port, 1, "lambda"))
            run.sink.remove_pool_pod("default", made.name)

    @property
    def taken(self):
        return [made.name for made in self.pods if made.taken is not None]


@pytest.fixture
async def gateways(tools):
    @asynccontextmanager
    async def make(count=2, **spec):
        port = free_port()
        async with AsyncExitStack() as stack:
            runs = []
            for number in range(1, count + 1):
                backend = tools.backend()
                backend.functions = [pool_function(tools, **spec)]
                settings = {"host": f"127.0.0.{number}", "internal_port": port, "name": f"gateway-{number}"}
                runs.append(
                    await stack.enter_async_context(
                        tools.running(backend, pool_private_key=PRIVATE_KEY, pool_peers_namespace="x", **settings)
                    )
                )
            for run in runs:
                run.sink.replace_peers([Peer(f"gateway-{n}", f"127.0.0.{n}") for n in range(1, count + 1)])
            yield Gateways(tools, runs, port)

    return make


async def test_a_gateway_without_a_share_borrows_a_place(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        lender, borrower = both.ranked
        made = await both.add()
        got = await borrower.invoke(body=b"1")
        assert (got.status, got.json()) == (200, 1)
        assert got.header(wire.COLD_START).startswith("pool;")
        assert len(made.received) == 1
        # what it lent it does not claim itself
        await both.add()
        waiting = asyncio.create_task(lender.invoke(body=b"2"))
        await both.tools.eventually(lambda: both.function(lender).waiters)
        assert both.function(lender).cold_reason is ColdStartReason.STARTING
        both.show(made, [lender, borrower])
        assert (await waiting).json() == 2
        assert both.taken == ["pool-0"]


async def test_a_gateway_without_peers_that_answer_waits_for_the_deployment(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        _, borrower = both.ranked
        await both.add()
        borrower.sink.replace_peers([Peer("gateway-1", "127.0.0.9"), Peer("gateway-2", "127.0.0.9")])
        waiting = asyncio.create_task(borrower.invoke(body=b"1"))
        await both.tools.eventually(lambda: both.function(borrower) in both.borrower(borrower)._paused)
        assert both.free(borrower) == 0 or both.function(borrower).waiters
        await borrower.add_pod()
        assert (await waiting).json() == 1
        assert both.taken == []
        await both.tools.eventually(lambda: both.free(borrower) == 1)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
async def test_all_bursts_together_stay_within_max_replicas_and_use_them_up(gateways, most):
    """Long requests at three gateways at once, none of which sees the others' pods."""
    async with gateways(3, scaling={"maxReplicas": most}) as all_three:
        hold = asyncio.Event()
        for _ in range(6):
            await all_three.add(hold=hold)
        first = all_three.ranked[-1]
        asked = [asyncio.create_task(first.invoke()) for _ in range(8)]
        for run in all_three.runs:
            asked += [asyncio.create_task(run.invoke()) for _ in range(3)]
        await all_three.tools.eventually(lambda: len(all_three.taken) >= most)
        # a few rounds more of asking: nobody gets another one
        for _ in range(3):
            for run in all_three.runs:
                run.gateway.pools.look(all_three.function(run))
            await all_three.tools.eventually(lambda: not any(all_three.borrower(run)._tasks for run in all_three.runs))
        assert len(all_three.taken) == most
        hold.set()
        for made in all_three.pods:
            if made.taken is not None:
                all_three.show(made, all_three.runs)
        assert {one.status for one in await asyncio.gather(*asked)} == {200}
        assert len(all_three.taken) == most


async def test_a_place_whose_pod_is_gone_can_be_lent_again(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        lender, borrower = both.ranked
        made = await both.add()
        assert (await borrower.invoke(body=b"1")).json() == 1
        both.show(made, [lender, borrower])
        for run in both.runs:
            run.sink.remove_pod("default", made.name)
        await both.add()
        assert (await borrower.invoke(body=b"2")).json() == 2
        assert both.taken == ["pool-0", "pool-1"]


async def test_a_pod_that_another_function_took_first_costs_no_place_for_long(gateways, monkeypatch):
    monkeypatch.setattr("kappa_gateway.pools.loans._RELABEL_SECONDS", 0.05)
    monkeypatch.setattr("kappa_gateway.pools.loans.LOAN_SECONDS", 0.05)
    async with gateways(scaling={"maxReplicas": 1}) as both:
        _, borrower = both.ranked
        refusing = await both.add(refuse=("409 Conflict", wire.REFUSED_TAKEN))
        waiting = asyncio.create_task(borrower.invoke(body=b"1"))
        await both.tools.eventually(lambda: refusing.pod.requests and not both.free(borrower))
        for run in both.runs:
            run.sink.remove_pool_pod("default", refusing.name)
        made = await both.add()
        assert (await waiting).json() == 1
        assert made.taken is not None


async def test_a_loan_is_not_kept_for_a_request_to_come(gateways, monkeypatch):
    monkeypatch.setattr("kappa_gateway.pools.sharing.USE_SECONDS", 0.05)
    async with gateways(scaling={"maxReplicas": 1}) as both:
        _, borrower = both.ranked
        await both.add()
        sharing, function = borrower.gateway.pools.sharing, both.function(borrower)
        vacancy = borrower.gateway.pools.vacancies.take("default", RUNTIME)
        sharing._claim_borrowed(function, vacancy)
        assert list(function.pods) == ["pool-0"]
        await both.tools.eventually(lambda: not function.pods and both.free(borrower) == 1)
        assert both.taken == []


async def test_nobody_but_a_gateway_gets_a_loan(gateways):
    async with gateways(scaling={"maxReplicas": 1}) as both:
        lender, borrower = both.ranked
        await both.add()
        url = f"http://{lender.gateway.settings.host}:{both.port}{wire.LOANS_PATH}"
        async with aiohttp.ClientSession() as session:
            for body, signature in ((b"{}", "AAAA"), (b"{}", "?"), (b"{}", ""), (b"x" * (MAX_BYTES + 1), "AAAA")):
                async with session.post(url, data=body, headers={wire.SIGNATURE: signature}) as answer:
                    assert answer.status == 403, await answer.text()
                    assert "the request is refused" in (await answer.json())["Message"]
            async with session.get(url) as answer:
                assert answer.status == 404
        both.borrower(borrower)._sign = Signer(bytes(32))
        waiting = asyncio.create_task(borrower.invoke(body=b"1"))
        await both.tools.eventually(lambda: both.function(borrower) in both.borrower(borrower)._paused)
        assert both.taken == []
        await borrower.add_pod()
        assert (await waiting).json() == 1
