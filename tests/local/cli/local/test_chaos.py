"""Events in local mode, while the gateway and single agents are killed at seeded moments: none is lost.

`KAPPA_CHAOS_EVENTS` (default 400), `KAPPA_CHAOS_SEED` and `KAPPA_CHAOS_RATE` make another run of it; `pytest -s` shows
its figures.
"""

import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chaos import GATEWAY, POD, Kill, Ledger, PlannedKill, Rules, judge, planned_events, planned_kills
from chaos_client import ChaosClient, runs
from kappa_local import KappaLocal
from processes import parents

EVENTS = int(os.environ.get("KAPPA_CHAOS_EVENTS", "400"))
SEED = int(os.environ.get("KAPPA_CHAOS_SEED", "1"))
RATE = float(os.environ.get("KAPPA_CHAOS_RATE", "40"))
SUPPORT = Path(__file__).resolve().parents[3] / "support"
MAX_ATTEMPTS = 3
SHARES = {"fast": 0.7, "flaky": 0.2, "slow": 0.1}
FAILING = {"flaky": 0.6}
WORK = {"fast": 0.0, "flaky": 0.01, "slow": 0.5}
SETTINGS = {
    "KAPPA_GATEWAY_EVENT_RETRY_DELAYS": "[0.2, 0.4]",
    "KAPPA_GATEWAY_EVENT_FIRST_BACKOFF": "0.1",
    "KAPPA_GATEWAY_EVENT_LONGEST_BACKOFF": "1",
}


@asynccontextmanager
async def collector() -> AsyncIterator[str]:
    """host:port of a collector."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SUPPORT / "chaos_collector.py"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


class Chaos:
    """`kappa local up`, killed and started again over the same queue."""

    def __init__(self, folder: Path, ledger: Ledger, kills: list[PlannedKill]) -> None:
        self.folder, self.ledger, self.kills = folder, ledger, kills
        self.local = self._new()

    def _new(self) -> KappaLocal:
        options = ("--queue", str(self.folder / "queue.sqlite"))
        return KappaLocal(self.folder / "functions", options=options, env=SETTINGS)

    async def run(self) -> None:
        start = time.monotonic()
        for planned in self.kills:
            await asyncio.sleep(max(0.0, start + planned.at - time.monotonic()))
            await (self._kill_gateway() if planned.what == GATEWAY else self._kill_agent(planned))

    async def _kill_gateway(self) -> None:
        old, self.local = self.local, self._new()
        self.ledger.kills.append(Kill(time.time(), GATEWAY, str(old.pid), ends=None, linger=0.5))
        old.signal(signal.SIGKILL)
        await old.wait()
        await old.stop()
        await self.local.start()

    async def _kill_agent(self, planned: PlannedKill) -> None:
        agents = [str(pid) for pid, parent in parents().items() if parent == self.local.pid]
        if victim := planned.among(agents):
            self.ledger.kills.append(Kill(time.time(), POD, victim, frozenset({victim}), linger=0.5))
            os.kill(int(victim), signal.SIGKILL)


def manifest(name: str, collector_at: str) -> dict[str, Any]:
    env = {"COLLECTOR": collector_at, "WORK": str(WORK[name])}
    return {
        "apiVersion": "kappa.run/v1alpha1",
        "kind": "Function",
        "metadata": {"name": name},
        "spec": {
            "runtime": "python3.13",
            "handler": "main.handler",
            "code": {"inline": (SUPPORT / "chaos_function.py").read_text()},
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "scaling": {"maxReplicas": 2},
            "concurrency": 4 if name == "slow" else 1,
            "async": {"maxAttempts": MAX_ATTEMPTS},
        },
    }


def told_to(collector_at: str) -> bytes:
    with urllib.request.urlopen(f"http://{collector_at}/runs", timeout=30) as answer:
        told: bytes = answer.read()
    return told


async def test_no_event_is_lost_while_the_gateway_and_its_agents_are_killed(tmp_path: Path) -> None:
    ledger = Ledger()
    events = planned_events(SEED, EVENTS, SHARES, failing=FAILING, max_attempts=MAX_ATTEMPTS)
    kills = planned_kills(SEED, EVENTS / RATE, {GATEWAY: 2.5, POD: 1.0})
    async with collector() as collector_at:
        (tmp_path / "functions").mkdir()
        for name in SHARES:  # JSON is YAML
            (tmp_path / "functions" / f"{name}.yaml").write_text(json.dumps(manifest(name, collector_at)))
        killer = Chaos(tmp_path, ledger, kills)
        await killer.local.start()
        try:
            async with ChaosClient(lambda: killer.local.url, "default", ledger) as client:
                async with asyncio.TaskGroup() as group:
                    group.create_task(client.send(events, RATE))
                    group.create_task(killer.run())
                await client.learn_outcomes(within=30 + EVENTS / RATE)
        finally:
            await killer.local.stop()
        ledger.runs = runs(await asyncio.to_thread(told_to, collector_at))
    verdict = judge(ledger, Rules(MAX_ATTEMPTS))
    print(f"\nseed {SEED}\n{verdict}", *verdict.duplicates, sep="\n")
    assert not verdict.problems, f"seed {SEED}\n{verdict}\n{killer.local.output[-3000:]}"
    assert {kill.what for kill in ledger.kills} == {GATEWAY, POD}
