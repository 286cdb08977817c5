"""Events through the installed chart, while gateways, operator, NATS and function pods are killed at seeded moments.

`KAPPA_CHAOS_EVENTS` (default 700), `KAPPA_CHAOS_RATE` (default 10 a second) and `KAPPA_CHAOS_SEED` vary the run;
`pytest -s` shows its figures. The clocks of the nodes and of this machine have to agree to 0.2 s.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from chaos import GATEWAY, OPERATOR, POD, QUEUE, Kill, Ledger, PlannedKill, Rules, judge, planned_events, planned_kills
from chaos_client import ChaosClient, runs
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

EVENTS = int(os.environ.get("KAPPA_CHAOS_EVENTS", "700"))
SEED = int(os.environ.get("KAPPA_CHAOS_SEED", "1"))
RATE = float(os.environ.get("KAPPA_CHAOS_RATE", "10"))
MAX_ATTEMPTS = 3
SHARES = {"fast": 0.65, "flaky": 0.2, "slow": 0.1, "web": 0.05}
FAILING = {"flaky": 0.6}
EVERY = {GATEWAY: 15.0, OPERATOR: 30.0, QUEUE: 30.0, POD: 7.0}
"""Mean seconds between two kills of a kind."""
DRAIN = 180.0 + EVENTS / RATE / 4
"""Seconds in which everything has to come back and to end."""


async def test_no_event_is_lost_while_every_part_is_killed(
    functions: Callable[..., None],
    killer: Callable[[PlannedKill], Kill | None],
    collected: Callable[[], str],
    namespace: str,
    gateway_url: str,
) -> None:
    await asyncio.to_thread(
        functions,
        MAX_ATTEMPTS,
        fast={"work": 0.0, "scaling": {"maxReplicas": 2}},
        flaky={"work": 0.01, "scaling": {"maxReplicas": 2}},
        slow={"work": 2.0, "scaling": {"maxReplicas": 2}, "concurrency": 3},
        web={"work": 0.1, "scaling": {"maxReplicas": 1}, "concurrency": 10},
    )
    await eventually(_known(gateway_url, namespace), within=30)
    ledger = Ledger()

    async def kill() -> None:
        start = time.monotonic()
        for planned in planned_kills(SEED, EVENTS / RATE, EVERY):
            await asyncio.sleep(max(0.0, start + planned.at - time.monotonic()))
            if done := await asyncio.to_thread(killer, planned):
                ledger.kills.append(done)

    async with ChaosClient(lambda: gateway_url, namespace, ledger, web={"web"}) as client:
        events = planned_events(SEED, EVENTS, SHARES, failing=FAILING, max_attempts=MAX_ATTEMPTS)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.send(events, RATE))
            group.create_task(kill())
        await client.learn_outcomes(within=DRAIN)
    ledger.runs = runs(await asyncio.to_thread(collected))
    verdict = judge(ledger, Rules(MAX_ATTEMPTS, answer=3.0, web_servers=frozenset({"web"})))
    print(f"\nseed {SEED}\n{verdict}", *verdict.duplicates, sep="\n")
    assert not verdict.problems, f"seed {SEED}\n{verdict}"
    assert {kill.what for kill in ledger.kills} == set(EVERY)


def _known(url: str, namespace: str) -> Callable[[], Any]:
    """Whether the gateways know every Function. Each connection may reach another gateway, so several are made."""

    async def check() -> bool:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session:
            for name in [*SHARES] * 4:
                path = f"/2015-03-31/functions/{namespace}.{name}/invocations"
                async with session.post(url + path, headers={"X-Amz-Invocation-Type": "DryRun"}) as answer:
                    # 400: it is a web server, so the gateway knows it
                    assert answer.status in (204, 400), f"{name}: {answer.status} {await answer.text()}"
        return True

    return check
