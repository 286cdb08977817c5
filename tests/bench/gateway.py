"""What the gateway costs: invocations through it against direct calls of the same agent, and its own throughput.

Three things in one run, rounds interleaved so that a busy machine hits all alike:

- latency at one caller: an echo function on a real agent, called directly and through the gateway; the difference of
  the medians is what the gateway adds;
- the same at 32 callers, as invocations per second (the agent is the limit there);
- the gateway's own capacity at 32 callers: in front of a stub pod that answers at once, invocations per second of the
  gateway's CPU time, which is what one core of its own would pass.

The gateway has one core, the load and the pods the other (where there are two).

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

PATH = "/2015-03-31/functions/{}/invocations"
BODY = b'{"name":"world","numbers":[1,2,3]}'
CODE = "def handler(event, context):\n    return event\n"
MAX_ADDED_US = 150
MIN_PER_CORE = 4000
CORES = sorted(os.sched_getaffinity(0))


class Caller(asyncio.Protocol):
    """One connection that sends the same request again as soon as its answer is complete."""

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
        if not head.startswith(b"http/1.1 200"):
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
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Amz-Executed-Version: $LATEST\r\nContent-Length: %d\r\n\r\n"
        % len(BODY)
        + BODY
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
    from kappa_gateway.backend import Pod, Sink
    from kappa_gateway.server import serve
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


def start(
    command: list[str], core: int, env: dict[str, str] | None = None, fd_flag: str = "--announce"
) -> tuple[Any, int]:
    """A child on one core, and the port that it announced."""
    read, write = os.pipe()
    environment = {**os.environ, **(env or {})}
    if fd_flag:
        command = [*command, fd_flag, str(write)]
    else:
        environment["KAPPA_ANNOUNCE_FD"] = str(write)
    child = subprocess.Popen(
        command,
        env=environment,
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=None if fd_flag else subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {CORES[core % len(CORES)]}),
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
        agent, agent_port = start([sys.executable, "-m", "kappa_runtime"], 1, config.to_env(), "")
        children.append(agent)
        stub, stub_port = start([sys.executable, __file__, "--role", "stub"], 1)
        children.append(stub)
        pods = {"agent": {"port": agent_port, "concurrency": 4}, "stub": {"port": stub_port, "concurrency": 64}}
        gateway, port = start([sys.executable, __file__, "--role", "gateway", "--pods", json.dumps(pods)], 0)
        children.append(gateway)
        idle_rss = rss_mib(gateway.pid)
        targets: dict[str, Callable[[int], Any]] = {
            "direct": lambda callers: load(agent_port, INVOKE_PATH, callers, seconds),
            "gateway": lambda callers: load(port, PATH.format("agent"), callers, seconds),
        }
        await load(port, PATH.format("agent"), 1, 0.5)  # every process warm, every connection made
        await load(agent_port, INVOKE_PATH, 1, 0.5)
        await load(port, PATH.format("stub"), 32, 0.5)
        p50: dict[str, list[float]] = {"direct": [], "gateway": [], "stub": [], "stub_direct": []}
        rate: dict[str, list[float]] = {"direct": [], "gateway": []}
        capacity: list[float] = []
        stub_rate: list[float] = []
        for _ in range(rounds):
            for name, run in targets.items():
                p50[name].append(us(await run(1)))
            p50["stub_direct"].append(us(await load(stub_port, INVOKE_PATH, 1, seconds)))
            p50["stub"].append(us(await load(port, PATH.format("stub"), 1, seconds)))
            for name, run in targets.items():
                # the agent takes four at a time; the gateway queues the rest, a direct caller would be refused
                callers = 32 if name == "gateway" else 4
                rate[name].append(len(await run(callers)) / seconds)
            before = cpu_seconds(gateway.pid)
            done = len(await load(port, PATH.format("stub"), 32, seconds))
            capacity.append(done / (cpu_seconds(gateway.pid) - before))
            stub_rate.append(done / seconds)
        return report(p50, rate, capacity, stub_rate, idle_rss, rss_mib(gateway.pid))
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(10)


def report(
    p50: dict[str, list[float]],
    rate: dict[str, list[float]],
    capacity: list[float],
    stub_rate: list[float],
    idle_rss: float,
    busy_rss: float,
) -> dict[str, Any]:
    median = statistics.median
    direct, through = median(p50["direct"]), median(p50["gateway"])
    added = median([b - a for a, b in zip(p50["direct"], p50["gateway"], strict=True)])
    added_stub = median([b - a for a, b in zip(p50["stub_direct"], p50["stub"], strict=True)])
    return {
        "benchmark": "gateway",
        "one_caller": {
            "direct_p50_us": round(direct, 1),
            "gateway_p50_us": round(through, 1),
            "added_p50_us": round(added, 1),
            "added_before_a_stub_p50_us": round(added_stub, 1),
            "ratio": round(through / direct, 3),
        },
        "callers_32": {
            "direct_per_s": round(median(rate["direct"])),
            "gateway_per_s": round(median(rate["gateway"])),
            "ratio": round(median(rate["gateway"]) / median(rate["direct"]), 3),
            "stub_per_s": round(median(stub_rate)),
            "gateway_per_core_s": round(median(capacity)),
            "gateway_cpu_us": round(1e6 / median(capacity), 1),
        },
        "rss_mib_with_100_functions": {"idle": round(idle_rss, 1), "after_load": round(busy_rss, 1)},
        "targets": {
            "added_p50_us_at_most": MAX_ADDED_US,
            "gateway_per_core_s_at_least": MIN_PER_CORE,
            "rss_mib_at_most": 96,
            "met": added <= MAX_ADDED_US and median(capacity) >= MIN_PER_CORE and busy_rss <= 96,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
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
        os.sched_setaffinity(0, {CORES[-1]})
        try:
            result = uvloop.run(measure(options.seconds, options.rounds, task_root))
        finally:
            os.sched_setaffinity(0, set(CORES))
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if result["targets"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
