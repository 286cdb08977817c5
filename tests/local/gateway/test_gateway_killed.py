"""A gateway with a real queue and real agents is killed again and again, and its NATS with it: its pods live on, and
nothing runs twice."""

import asyncio
import json
import random
import sys
from collections import Counter

import pytest
from agents import launch
from nats_server import NatsServer

from kappa_core.agent_config import AgentConfig

CODE = """
import os, time
def handler(event, context):
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(f"{event['number']}\\n")
    time.sleep(event["sleep"])
    return event["number"]
"""
GATEWAY = """
import asyncio, json, os, sys
from kappa_core.function import Function
from kappa_gateway.pods.platform import Pod
from kappa_gateway.main import serve
from kappa_gateway.settings import Settings

queue, *ports = sys.argv[1:]

class Backend:
    async def run(self, sink):
        spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "-"}, "concurrency": 2}
        manifest = {"metadata": {"name": "hello", "generation": 1}, "spec": spec}
        sink.replace_functions([Function.model_validate(manifest)])
        pods = [Pod("default", f"pod-{port}", "hello", "127.0.0.1", int(port), 2, "lambda") for port in ports]
        sink.replace_pods(pods)
        await asyncio.Event().wait()

settings = Settings(host="127.0.0.1", port=0, internal_port=-1, name="test", queue_url=queue, queue_lease=1.0)
asyncio.run(serve(settings, Backend(), on_started=lambda _, port, __: print(port, flush=True)))
"""
EVENTS = 120
KILLS = 5


@pytest.fixture
async def agents(tmp_path):
    """The ports of two agents with two slots each, which outlive every gateway."""
    processes, ports = [], []
    for number in range(2):
        folder = tmp_path / f"task{number}"
        folder.mkdir()
        config = AgentConfig(
            function_name="hello",
            runtime="python3.13",
            handler="main.handler",
            code_inline=CODE,
            task_root=str(folder),
            host="127.0.0.1",
            port=0,
            runtime_api_port=0,
            concurrency=2,
        )
        process, port = launch(config, folder, tmp_path / f"log{number}", env={"RUNS": str(tmp_path / "runs")})
        processes.append(process)
        ports.append(port)
    yield ports
    for process in processes:
        process.kill()
        process.wait()


class Killable:
    """A gateway in a process of its own, started again after each kill."""

    def __init__(self, queue, ports):
        self._arguments = [queue, *map(str, ports)]
        self._process = None
        self.port = 0

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            GATEWAY,
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.port = int(await self._process.stdout.readline())

    async def kill(self):
        self._process.kill()
        await self._process.wait()

    async def request(self, method, path, body=b"", **headers):
        """(status, JSON), None where nobody answers."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    lines = [
                        f"{method} {path} HTTP/1.1",
                        "host: g",
                        "connection: close",
                        f"content-length: {len(body)}",
                    ]
                    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
                    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
                    head = await reader.readuntil(b"\r\n\r\n")
                    text = await reader.read()
                finally:
                    writer.close()
            return int(head.split()[1]), head.decode(), text
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return None


@pytest.fixture
def nats(tmp_path):
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("seed", [1])
async def test_no_event_runs_twice_and_none_is_lost(agents, tmp_path, seed):
    gateway = Killable(f"sqlite:{tmp_path}/queue.sqlite", agents)

    async def kill_and_start(chosen):
        await gateway.kill()
        await gateway.start()

    await storm(gateway, random.Random(seed), kill_and_start, tmp_path / "runs")


@pytest.mark.parametrize("seed", [1])
async def test_no_event_runs_twice_when_nats_is_killed_too(agents, nats, tmp_path, seed):
    """A server that is killed forgets its last hand-outs: what it then hands out for the first time may have run."""
    gateway = Killable(nats.url, agents)

    async def kill_and_start(chosen):
        await asyncio.to_thread(nats.kill)
        await asyncio.sleep(chosen.uniform(0, 0.3))
        await gateway.kill()
        await asyncio.to_thread(nats.start)
        await gateway.start()

    await storm(gateway, random.Random(seed), kill_and_start, tmp_path / "runs")


@pytest.mark.parametrize("seed", [1])
async def test_no_event_runs_twice_when_nats_is_killed_between_two_gateways(agents, nats, tmp_path, seed):
    """What waits for a slot at one gateway when NATS dies is handed out to the other: one of them must not begin."""
    gateway, other = Killable(nats.url, agents), Killable(nats.url, agents)
    await other.start()

    async def kill_and_start(chosen):
        await asyncio.to_thread(nats.kill)
        await asyncio.to_thread(nats.start)

    try:
        await storm(gateway, random.Random(seed), kill_and_start, tmp_path / "runs")
    finally:
        await other.kill()


async def storm(gateway, chosen, kill_and_start, runs):
    await gateway.start()
    ids = {}

    async def send(number):
        event = {"number": number, "sleep": chosen.choice([0, 0.02, 0.1, 0.3])}
        while True:
            answer = await gateway.request(
                "POST",
                "/2015-03-31/functions/hello/invocations",
                json.dumps(event).encode(),
                X_Amz_Invocation_Type="Event",
                Kappa_Idempotency_Key=f"key-{number}",
            )
            if answer is not None and answer[0] == 202:
                ids[number] = answer[1].lower().partition("x-amzn-requestid: ")[2].partition("\r\n")[0]
                return
            await asyncio.sleep(0.02)

    async def submit():
        for number in range(EVENTS):
            await send(number)
            await asyncio.sleep(0.02)

    try:
        submitting = asyncio.create_task(submit())
        for _ in range(KILLS):
            await asyncio.sleep(chosen.uniform(0.3, 1.2))
            await kill_and_start(chosen)
        await submitting
        assert len(set(ids.values())) == EVENTS

        async def unfinished():
            left = []
            for number, request_id in ids.items():
                answer = await gateway.request("GET", f"/v1/namespaces/default/functions/hello/async/{request_id}")
                record = json.loads(answer[2]) if answer is not None and answer[0] == 200 else {}
                if (record.get("status"), record.get("result")) != ("succeeded", number):
                    left.append((number, record or answer))
            return left

        async with asyncio.timeout(60):
            while left := await unfinished():
                assert not [record for _, record in left if record and record.get("status") in ("failed", "expired")]
                await asyncio.sleep(0.2)
    finally:
        await gateway.kill()
    counted = Counter(map(int, runs.read_text().split()))
    assert counted == dict.fromkeys(range(EVENTS), 1)
