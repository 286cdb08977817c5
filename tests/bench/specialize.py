"""Cold starts of pool agents on loopback: `python tests/bench/specialize.py [--starts 50]`; JSON on stdout.

Each start is a new agent with KAPPA_POOL=1 that has come to wait; then one `specialize` request with a small function,
from its first byte sent to its answer's last byte read, and the agent's own phases. Also the idle agent's memory, of
both processes, shared pages counted once (PSS).
"""

import argparse
import base64
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from kappa_core import phases, specialize, wire
from kappa_core.agent_config import AgentConfig, PoolConfig
from kappa_core.specialize import Specialization

CODE = "def handler(event, context):\n    return {'hello': event['name']}\n"
EVENT = b'{"name": "world"}'
RUNTIME = f"python3.{sys.version_info.minor}"
REQUEST_ID = "8e5c3f0a-7a39-4c55-b1c5-0123456789ab"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    runs = [cold_start(arguments.python) for _ in range(arguments.starts)]
    names = ["total", *phases.NAMES]
    result: dict[str, Any] = {"starts": len(runs)}
    for name in names:
        values = sorted(run[name] for run in runs)
        result[name] = {
            "p50_ms": round(statistics.median(values), 2),
            "p95_ms": round(values[int(len(values) * 0.95)], 2),
            "max_ms": round(values[-1], 2),
        }
    result["waits_after_ms"] = round(statistics.median(run["waits"] for run in runs), 1)
    result["idle_pss_mib"] = round(statistics.median(run["pss"] for run in runs), 1)
    result["idle_private_mib"] = round(statistics.median(run["anonymous"] for run in runs), 1)
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)


def cold_start(python: str) -> dict[str, float]:
    key = SigningKey.generate()
    public_key = base64.b64encode(bytes(key.verify_key)).decode()
    with (
        pool_agent(python, public_key) as (process, port, began),
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange(connection, f"GET {wire.READY_PATH}?wait=20 HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
        waits = (time.perf_counter() - began) * 1000
        pids = [process.pid, *children(process.pid)]
        memory = {name: sum(rollup(pid, name) for pid in pids) for name in ("Pss", "Pss_Anon")}
        time.sleep(0.05)
        config = AgentConfig(function_name="hello", handler="main.handler", runtime=RUNTIME, code_inline=CODE)
        body = specialize.encode(
            Specialization(
                pod_uid="uid",
                request_id=REQUEST_ID,
                spec_hash="1",
                issued_at=time.time(),
                config=config,
                env={"GREETING": "hi"},
            ),
            code=b"",
            payload=EVENT,
            sign=lambda message: key.sign(message).signature,
        )
        request = (
            f"POST {wire.SPECIALIZE_PATH} HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(body)}\r\n"
            f"{wire.REQUEST_ID}: {REQUEST_ID}\r\n{wire.DEADLINE_MS}: 99999999999999\r\n\r\n"
        ).encode() + body
        sent = time.perf_counter()
        head, answer = exchange(connection, request)
        total = (time.perf_counter() - sent) * 1000
    if json.loads(answer) != {"hello": "world"}:
        raise SystemExit(answer.decode())
    line = next(line for line in head.decode().split("\r\n") if line.startswith(wire.PHASES))
    return {
        **phases.read(line.partition(": ")[2]),
        "total": total,
        "waits": waits,
        "pss": memory["Pss"],
        "anonymous": memory["Pss_Anon"],
    }


@contextlib.contextmanager
def pool_agent(python: str, public_key: str) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """(its process, its port, when it was started)"""
    with tempfile.TemporaryDirectory() as folder:
        read_end, write_end = os.pipe()
        config = PoolConfig(
            pool_public_key=public_key,
            pod_uid="uid",
            runtime=RUNTIME,
            task_root=folder,
            host="127.0.0.1",
            port=0,
            runtime_api_port=0,
            announce_fd=write_end,
        )
        began = time.perf_counter()
        process = subprocess.Popen(
            [python, "-I", "-B", "-m", "kappa_runtime"],
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **config.to_env()},
            pass_fds=(write_end,),
            stdout=subprocess.DEVNULL,
        )
        os.close(write_end)
        with os.fdopen(read_end) as announced:
            port = json.loads(announced.readline())["port"]
        try:
            yield process, port, began
        finally:
            process.terminate()
            process.wait()


def exchange(connection: socket.socket, request: bytes) -> tuple[bytes, bytes]:
    """One request; the head and the body of its answer."""
    connection.sendall(request)
    received = connection.recv(65536)
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit((head + body).decode())
    return head, body


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rollup(pid: int, key: str) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
