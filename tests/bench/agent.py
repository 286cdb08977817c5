"""What one agent and its runtime process do: `python tests/bench/agent.py [--seconds 5] [--core 0]`; JSON on stdout.

The agent and the runtime process are pinned to one core, the load to the others. Figures: start-up (exec to TCP accept,
to ready, to the first answer), memory of both when idle, then one caller on one kept connection.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kappa_core import wire
from kappa_core.agent_config import AgentConfig

CODE = "def handler(event, context):\n    return {'hello': event['name']}\n"
EVENT = b'{"name": "world"}'
REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Kappa-Request-Id: 8e5c3f0a-7a39-4c55-b1c5-0123456789ab\r\nKappa-Deadline-Ms: 99999999999999\r\n"
    b"Kappa-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:hello\r\n"
    b"X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0\r\n\r\n%b"
    % (wire.INVOKE_PATH.encode(), len(EVENT), EVENT)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--core", type=int, default=0, help="the agent's core; -1: do not pin")
    parser.add_argument("--runtime", default="python3.13")
    arguments = parser.parse_args()
    if arguments.core >= 0:
        others = os.sched_getaffinity(0) - {arguments.core}
        os.sched_setaffinity(0, others or {arguments.core})
    starts = [start_up(arguments) for _ in range(arguments.starts)]
    result: dict[str, Any] = {
        "start": {key: round(statistics.median(start[key] for start in starts), 1) for key in starts[0]},
        "warm": warm(arguments),
    }
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)


@contextlib.contextmanager
def agent(arguments: argparse.Namespace) -> Any:
    """A started agent: (its process, its port, when it was started)."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = AgentConfig(
            function_name="bench",
            runtime=arguments.runtime,
            handler="main.handler",
            code_inline=CODE,
            task_root=folder,
            host="127.0.0.1",
            port=port,
            runtime_api_port=0,
        )
        command = [sys.executable, "-I", "-m", "kappa_runtime"]
        if arguments.core >= 0:
            command = ["taskset", "-c", str(arguments.core), *command]
        with Path(folder, "log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, env={"PATH": os.environ["PATH"], **config.to_env()}, stdout=log, stderr=log
            )
        try:
            yield process, port, began
        finally:
            process.terminate()
            process.wait()


def connect(port: int) -> socket.socket:
    """As the gateway: until it accepts."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.0005)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """One request, one answer that fits one read after its head."""
    connection.sendall(request)
    received = connection.recv(65536)
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(received.decode())
    return body


def start_up(arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds since exec."""
    with agent(arguments) as (_, port, began), connect(port) as connection:
        accepted = time.perf_counter()
        exchange(connection, f"GET {wire.READY_PATH}?wait=10 HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
        ready = time.perf_counter()
        exchange(connection, REQUEST)
        answered = time.perf_counter()
    return {
        "accept_ms": (accepted - began) * 1000,
        "ready_ms": (ready - began) * 1000,
        "first_answer_ms": (answered - began) * 1000,
    }


def warm(arguments: argparse.Namespace) -> dict[str, Any]:
    with agent(arguments) as (process, port, _), connect(port) as connection:
        exchange(connection, REQUEST)
        memory = {"agent_mib": resident(process.pid)}
        runtime = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        memory["runtime_process_mib"] = resident(int(runtime))
        memory["both_mib"] = round(memory["agent_mib"] + memory["runtime_process_mib"], 1)
        memory["both_unshared_mib"] = round(proportional(process.pid) + proportional(int(runtime)), 1)
        for _ in range(300):
            exchange(connection, REQUEST)
        used = cpu_seconds(process.pid), cpu_seconds(int(runtime))
        latencies = []
        deadline = time.perf_counter() + arguments.seconds
        began = previous = time.perf_counter()
        while previous < deadline:
            exchange(connection, REQUEST)
            now = time.perf_counter()
            latencies.append(now - previous)
            previous = now
        count = len(latencies)
        latencies.sort()
        return {
            "memory": memory,
            "requests_per_second": round(count / (previous - began)),
            "p50_us": round(latencies[count // 2] * 1e6, 1),
            "p99_us": round(latencies[count * 99 // 100] * 1e6, 1),
            "agent_cpu_us": round((cpu_seconds(process.pid) - used[0]) / count * 1e6, 1),
            "runtime_process_cpu_us": round((cpu_seconds(int(runtime)) - used[1]) / count * 1e6, 1),
            "agent_mib_after": resident(process.pid),
        }


def resident(pid: int) -> float:
    return _status(f"/proc/{pid}/status", "VmRSS:")


def proportional(pid: int) -> float:
    """PSS: shared pages divided among those that share them."""
    return _status(f"/proc/{pid}/smaps_rollup", "Pss:")


def _status(path: str, key: str) -> float:
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(key))
    return round(int(line.split()[1]) / 1024, 1)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
