"""Cold starts without a cluster: `kappa local up` with its pool, one request at a time to a function without a process.

Both paths in turn in one run; the phases are those of the answers' own `Kappa-Cold-Start` header. Used by coldstart.py.
"""

import asyncio
import re
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from cluster import post, summary

MANIFEST = """\
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {{name: {name}}}
spec:
  runtime: python3.{minor}
  handler: main.handler
  scaling: {{keepWarm: 0s, maxReplicas: 1}}
  {more}
  code:
    inline: |
      def handler(event, context):
          return event
"""
PATHS = {"Pool": ("pooled", ""), "Deployment": ("deployed", "podTemplate: {annotations: {bench: deployment}}")}
"""The label `path` → the function whose cold starts go that way, and what makes them."""


def read_header(answer: bytes) -> tuple[str, dict[str, float]]:
    """The path and the phases (seconds) of an answer's `Kappa-Cold-Start` header. Raises `RuntimeError` without one."""
    found = re.search(rb"(?i)\r\nkappa-cold-start: ([^\r]*)\r\n", answer)
    if found is None:
        raise RuntimeError(f"the invocation was not a cold start: {answer[:300]!r}")
    path, *phases = found[1].decode().split(";")
    return path, {name: float(value) / 1000 for name, _, value in (phase.partition("=") for phase in phases)}


def phase_summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {phase: summary([run[phase] for run in runs], digits=2) for phase in runs[0]}


class Local:
    """A running `kappa local up` with both functions."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def settled(self) -> None:
        """No function has a process, and the pool has its spare one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            page = await asyncio.to_thread(self._metrics)
            pods = sum(float(value) for value in re.findall(r"^kappa_pods{.*} (.*)$", page, re.M))
            free = sum(float(value) for value in re.findall(r'^kappa_pool_pods{.*state="free"} (.*)$', page, re.M))
            if free and not pods:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("local mode did not come to rest within 60 s")

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    async def start(self, function: str) -> tuple[str, dict[str, float], float]:
        path = f"/2015-03-31/functions/{function}/invocations"
        status, answer, seconds = await post("127.0.0.1", self.port, path, b'{"n":1}')
        if status != 200 or not answer.endswith(b'{"n": 1}'):
            raise RuntimeError(f"the cold invocation answered {answer[:500]!r}")
        return *read_header(answer), seconds


async def run(runs: int, rest: float = 0.3) -> dict[str, Any]:
    """`rest`: seconds between the pool being full again and the next start."""
    with tempfile.TemporaryDirectory() as folder:
        for name, more in PATHS.values():
            text = MANIFEST.format(name=name, more=more, minor=sys.version_info.minor)
            await asyncio.to_thread(Path(folder, f"{name}.yaml").write_text, text)
        kappa = Path(sys.executable).with_name("kappa")
        process = await asyncio.create_subprocess_exec(
            kappa, "local", "up", folder, "--port", "0", "--queue", str(Path(folder, "queue.db")),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        reading: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(30):
                while (found := re.search(rb"on http://127\.0\.0\.1:(\d+)", await process.stdout.readline())) is None:
                    pass
            reading = asyncio.create_task(_drain(process.stdout))
            return await _measure(Local(int(found[1])), runs, rest)
        finally:
            process.send_signal(signal.SIGINT)
            await process.wait()
            if reading is not None:
                await reading


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


async def _measure(local: Local, runs: int, rest: float) -> dict[str, Any]:
    walls: dict[str, list[float]] = {path: [] for path in PATHS}
    phases: dict[str, list[dict[str, float]]] = {path: [] for path in PATHS}
    for number in range(runs):
        for path, (function, _) in PATHS.items():
            await local.settled()
            await asyncio.sleep(rest)
            went, found, seconds = await local.start(function)
            if went != path.lower():
                raise RuntimeError(f"{function} went by the {went}")
            walls[path].append(seconds)
            phases[path].append(found)
        last = ", ".join(f"{path} {walls[path][-1] * 1000:.1f} ms" for path in PATHS)
        print(f"{number + 1}/{runs} {last}", file=sys.stderr)
    return {
        "benchmark": "coldstart-local",
        "unit": "ms",
        **{
            path: {"request to first byte": summary(walls[path], digits=2), "phases": phase_summary(phases[path])}
            for path in PATHS
        },
        "target": {"Pool p50": "<= 10", "Pool p95": "<= 25"},
    }
