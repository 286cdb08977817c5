"""What the gateway costs: invocations through it against direct calls of the same agent, and its own throughput.

Three things in one run. Rounds are short and interleaved, so that a busy machine hits all alike:

- latency at one caller: an echo function on a real agent, called directly and through the gateway; the difference of
  the medians is what the gateway adds;
- the same at 32 callers, as invocations per second (the agent is the limit there);
- the gateway's own capacity at 32 callers: in front of a stub pod that answers at once, invocations per second of the
  gateway's CPU time, which is what one core of its own would pass.

Nothing is pinned: where processes run is the kernel's choice, as it is in a cluster. The percentiles are over all
requests of all rounds; `best_added_p50_us` is the round that was disturbed least.

usage: gateway.py [--json FILE] [--seconds S] [--rounds N]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

PATH = "/2015-03-31/functions/{}/invocations"
BODY = b'{"name":"world","numbers":[1,2,3]}'
CODE = "def handler(event, context):\n    return event\n"
MAX_ADDED_US = 150
MIN_PER_CORE = 4000
MAX_RSS_MIB = 96


class Caller(asyncio.Protocol):
    """One connection that sends the same request again as soon as its answer is complete."""

    ACCEPTED = b"http/1.1 200"

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self.request, self.until, self.latencies = request, until, latencies
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.index(b"content-length: ") + 16
        if len(self.buffer) < end + 4 + int(head[at:].partition(b"\r")[0]):
            return
        if not head.startswith(self.ACCEPTED):
            self.done.set_exception(RuntimeError(self.buffer.decode("latin-1")))
            self.transport.close()
            return
        now = time.perf_counter()
        self.latencies.append(now - self.sent)
        self.buffer = b""
        if now < self.until:
            self.send()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("closed before its answer"))


async def load(port: int, path: str, callers: int, seconds: float) -> list[float]:
    """Latencies in seconds of every request that `callers` connections made in this time."""
    request = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    ).encode() + BODY
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Caller(request, until, latencies), "127.0.0.1", port))[1]
        for _ in range(callers)
    ]
    await asyncio.gather(*(caller.done for caller in made))
    return latencies


# -- the processes under test


class StubPod(asyncio.Protocol):
    """Answers every request at once; each comes in one piece."""

    ANSWER = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Amz-Executed-Version: $LATEST\r\n"
        b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    )

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.ANSWER)


async def stub_role(announce: int) -> None:
    server = await asyncio.get_running_loop().create_server(StubPod, "127.0.0.1", 0)
    os.write(announce, b'{"port": %d}\n' % server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def gateway_role(announce: int, pods: dict[str, Any]) -> None:
    from kappa_core import logs
    from kappa_core.function import Function
    from kappa_gateway.main import serve
    from kappa_gateway.pods.platform import Pod, Sink
    from kappa_gateway.settings import Settings

    logs.configure("warning", "text")

    class Backend:
        async def run(self, sink: Sink) -> None:
            spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": CODE}}
            names = [*pods, *(f"idle-{number}" for number in range(100 - len(pods)))]
            sink.replace_functions(
                Function.model_validate({"metadata": {"name": name}, "spec": spec}) for name in names
            )
            sink.replace_pods(
                Pod("default", f"{name}-pod", name, "127.0.0.1", pod["port"], pod["concurrency"], "lambda")
                for name, pod in pods.items()
            )
            await asyncio.Event().wait()

    await serve(
        Settings(host="127.0.0.1", port=0, internal_port=-1),
        Backend(),
        on_started=lambda _, port, __: os.write(announce, b'{"port": %d}\n' % port) and None,
    )


def start(command: list[str], env: dict[str, str] | None = None) -> tuple[Any, int]:
    """A child, and the port that it announced. With `env` it is an agent, which finds the pipe's name there."""
    read, write = os.pipe()
    if env is None:
        command = [*command, "--announce", str(write)]
    child = subprocess.Popen(
        command,
        env={**os.environ, **(env or {}), "KAPPA_ANNOUNCE_FD": str(write)},
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=None if env is None else subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as announced:
        return child, int(json.loads(announced.readline())["port"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def us(latencies: list[float]) -> float:
    return statistics.median(latencies) * 1e6


def added(rounds: list[list[float]], base: list[list[float]]) -> dict[str, float]:
    """Microseconds that one way takes more than another, at the median: of all requests, and of the best round."""
    everything = us([seconds for one in rounds for seconds in one]) - us([seconds for one in base for seconds in one])
    best = min(us(one) for one in rounds) - min(us(one) for one in base)
    return {"added_p50_us": round(everything, 1), "best_added_p50_us": round(best, 1)}


async def measure(seconds: float, rounds: int, task_root: str) -> dict[str, Any]:
    from kappa_core.agent_config import AgentConfig
    from kappa_core.wire import INVOKE_PATH

    children = []
    try:
        config = AgentConfig(
            function_name="agent",
            runtime="python3.13",
            handler="main.handler",
            code_inline=CODE,
            task_root=task_root,
            host="127.0.0.1",
            port=0,
            runtime_api_port=0,
            parent_death=True,
            concurrency=4,
        )
        agent, agent_port = start([sys.executable, "-m", "kappa_runtime"], config.to_env())
        children.append(agent)
        stub, stub_port = start([sys.executable, __file__, "--role", "stub"])
        children.append(stub)
        pods = {"agent": {"port": agent_port, "concurrency": 4}, "stub": {"port": stub_port, "concurrency": 64}}
        gateway, port = start([sys.executable, __file__, "--role", "gateway", "--pods", json.dumps(pods)])
        children.append(gateway)
        idle_rss = rss_mib(gateway.pid)
        places = {
            "direct": (agent_port, INVOKE_PATH),
            "gateway": (port, PATH.format("agent")),
            "stub_direct": (stub_port, INVOKE_PATH),
            "stub": (port, PATH.format("stub")),
        }
        for place in places.values():
            await load(*place, 1, 0.5)  # every process warm, every connection made
        latencies: dict[str, list[list[float]]] = {name: [] for name in places}
        rate: dict[str, list[float]] = {"direct": [], "gateway": []}
        capacity: list[float] = []
        stub_rate: list[float] = []
        for _ in range(rounds):
            for name, place in places.items():
                latencies[name].append(await load(*place, 1, seconds))
            # the agent runs four at a time; the gateway has the others wait, a direct caller would be refused
            rate["direct"].append(len(await load(*places["direct"], 4, seconds)) / seconds)
            rate["gateway"].append(len(await load(*places["gateway"], 32, seconds)) / seconds)
            before = cpu_seconds(gateway.pid)
            done = len(await load(*places["stub"], 32, 3 * seconds))
            capacity.append(done / (cpu_seconds(gateway.pid) - before))
            stub_rate.append(done / seconds / 3)
        return report(latencies, rate, capacity, stub_rate, idle_rss, rss_mib(gateway.pid))
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(10)


def report(
    latencies: dict[str, list[list[float]]],
    rate: dict[str, list[float]],
    capacity: list[float],
    stub_rate: list[float],
    idle_rss: float,
    busy_rss: float,
) -> dict[str, Any]:
    median = statistics.median
    p50 = {name: round(us([seconds for one in rounds for seconds in one]), 1) for name, rounds in latencies.items()}
    agent = added(latencies["gateway"], latencies["direct"])
    stub = added(latencies["stub"], latencies["stub_direct"])
    per_core = round(median(capacity))
    return {
        "benchmark": "gateway",
        "one_caller_before_an_agent": {
            "direct_p50_us": p50["direct"],
            "gateway_p50_us": p50["gateway"],
            "ratio": round(p50["gateway"] / p50["direct"], 3),
            **agent,
        },
        "one_caller_before_a_stub": {"direct_p50_us": p50["stub_direct"], "gateway_p50_us": p50["stub"], **stub},
        "callers_32_before_an_agent": {
            "direct_with_4_per_s": round(median(rate["direct"])),
            "gateway_per_s": round(median(rate["gateway"])),
            "ratio": round(median(rate["gateway"]) / median(rate["direct"]), 3),
        },
        "callers_32_before_a_stub": {
            "gateway_per_s": round(median(stub_rate)),
            "gateway_per_core_s": per_core,
            "gateway_cpu_us": round(1e6 / per_core, 1),
        },
        "rss_mib_with_100_functions": {"idle": round(idle_rss, 1), "after_load": round(busy_rss, 1)},
        "targets": {
            "best_added_p50_us_at_most": MAX_ADDED_US,
            "gateway_per_core_s_at_least": MIN_PER_CORE,
            "rss_mib_at_most": MAX_RSS_MIB,
            "met": agent["best_added_p50_us"] <= MAX_ADDED_US and per_core >= MIN_PER_CORE and busy_rss <= MAX_RSS_MIB,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement (default: 0.3)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--role", choices=["gateway", "stub"], help=argparse.SUPPRESS)
    parser.add_argument("--announce", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pods", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "gateway":
        uvloop.run(gateway_role(options.announce, options.pods))
        return 0
    if options.role == "stub":
        uvloop.run(stub_role(options.announce))
        return 0
    with tempfile.TemporaryDirectory() as task_root:
        result = uvloop.run(measure(options.seconds, options.rounds, task_root))
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if result["targets"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
