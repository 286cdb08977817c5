"""What `make run` does after its downloads: seconds from `kappa local up examples/01-hello` to the first answer.

usage: local_start.py [--runs 5] [--json FILE]
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from cluster import post, summary

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def once() -> float:
    port = free_port()
    kappa = Path(sys.executable).with_name("kappa")
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        kappa, "local", "up", str(ROOT / "examples/01-hello"), "--port", str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    status, answer, _ = await post(
                        "127.0.0.1", port, "/2015-03-31/functions/hello/invocations", b'{"name":"bench"}'
                    )
                except OSError:
                    await asyncio.sleep(0.01)
                    continue
                if status == 200 and b"bench" in answer:
                    return time.perf_counter() - start
                raise RuntimeError(f"hello answered {answer[:500]!r}")
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            await process.wait()


async def run(runs: int) -> dict[str, object]:
    return {
        "benchmark": "local",
        "unit": "ms",
        "first answer": summary([await once() for _ in range(runs)]),
        "target": "<= 15 s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(run(options.runs)), indent=2)
    print(result)
    if options.json:
        options.json.write_text(result + "\n")


if __name__ == "__main__":
    main()
