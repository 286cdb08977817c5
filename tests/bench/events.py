"""Asynchronous invocations per second: accepted (202, so durable) and dispatched (run and gone from the queue).

For each queue, JetStream and SQLite, with a gateway as a process of its own:

- *accepted*: 32 connections send events one after the other to a function that has no pod yet;
- *dispatched*: then a pod with 64 slots appears that answers at once, and all events are run. The time ends when the
  gateway counts the last event as delivered, after the queue has removed it.

The baseline is the same server's own rate in the same run: nats-py publishes the same payload with as many publishes in
flight, each confirmed by a stream of the same kind, then receives and acks the messages. Rounds of publishing and
accepting are interleaved.

usage: events.py [--json FILE] [--seconds S] [--rounds N] [--only jetstream|sqlite]
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvloop
from gateway import BODY, CODE, PATH, Caller, cpu_seconds, rss_mib, start

CALLERS = 32
SLOTS = 64
FUNCTION = "echo"
DELIVERED = re.compile(r'^kappa_async_events_delivered_total\{.*status="succeeded".*\} ([\d.e+]+)$', re.MULTILINE)


class EventCaller(Caller):
    ACCEPTED = b"http/1.1 202"


async def send(port: int, seconds: float) -> list[float]:
    """Latencies of the events that were accepted in this time."""
    head = (
        f"POST {PATH.format(FUNCTION)} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"X-Amz-Invocation-Type: Event\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: EventCaller(head.encode() + BODY, until, latencies), "127.0.0.1", port))[
            1
        ]
        for _ in range(CALLERS)
    ]
    await asyncio.gather(*(caller.done for caller in made))
    return latencies


# -- NATS itself


@contextmanager
def nats_server(folder: Path) -> Iterator[int]:
    """The port of a nats-server with JetStream in this folder."""
    beside_python = Path(sys.executable).with_name("nats-server")
    program = str(beside_python) if beside_python.exists() else shutil.which("nats-server") or "/usr/sbin/nats-server"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True)
    config = folder / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\njetstream {{ store_dir: "{folder}" }}\n')
    server = subprocess.Popen([program, "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{program} does not serve") from None
                time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait(10)


class Raw:
    """nats-py alone, over a work-queue stream in files, as a lane is one."""

    STREAM, SUBJECT = "raw", "raw.events"

    def __init__(self, client: Any) -> None:
        self._client = client
        self._js = client.jetstream()
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator["Raw"]:
        import nats
        from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

        client = await nats.connect(f"nats://127.0.0.1:{port}")
        raw = cls(client)
        try:
            await raw._js.add_stream(
                StreamConfig(
                    name=cls.STREAM,
                    subjects=[cls.SUBJECT],
                    retention=RetentionPolicy.WORK_QUEUE,
                    storage=StorageType.FILE,
                    duplicate_window=120,
                )
            )
            await raw._js.add_consumer(cls.STREAM, ConsumerConfig(durable_name="raw", max_ack_pending=10_000))
            yield raw
        finally:
            await client.close()

    async def publish(self, seconds: float) -> int:
        """How many were confirmed in this time."""
        until = time.perf_counter() + seconds
        before = self._number

        async def one_after_the_other() -> None:
            while time.perf_counter() < until:
                self._number += 1
                await self._js.publish(self.SUBJECT, BODY, headers={"Nats-Msg-Id": str(self._number)})

        await asyncio.gather(*(one_after_the_other() for _ in range(CALLERS)))
        return self._number - before

    async def drain(self) -> float:
        """Takes and confirms everything; per second."""
        subscription = await self._js.pull_subscribe_bind("raw", self.STREAM)
        left = (await self._js.stream_info(self.STREAM)).state.messages
        count, begin = left, time.perf_counter()
        while left:
            messages = await subscription.fetch(SLOTS, timeout=5)
            await asyncio.gather(*(message.ack_sync(timeout=5) for message in messages))
            left -= len(messages)
        return float(count / (time.perf_counter() - begin))


# -- the gateway


async def gateway_role(announce: int, queue_url: str, pod_port: int) -> None:
    from kappa_core import logs
    from kappa_core.function import Function
    from kappa_gateway.main import serve
    from kappa_gateway.pods.platform import Pod, Sink
    from kappa_gateway.settings import Settings

    logs.configure("warning", "text")
    signalled = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, signalled.set)

    class Backend:
        async def run(self, sink: Sink) -> None:
            spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": CODE}}
            sink.replace_functions([Function.model_validate({"metadata": {"name": FUNCTION}, "spec": spec})])
            sink.replace_pods([])
            await signalled.wait()
            sink.replace_pods([Pod("default", "pod", FUNCTION, "127.0.0.1", pod_port, SLOTS, "lambda")])
            await asyncio.Event().wait()

    await serve(
        Settings(host="127.0.0.1", port=0, internal_port=-1, queue_url=queue_url, max_wait=600),
        Backend(),
        on_started=lambda _, port, __: os.write(announce, b'{"port": %d}\n' % port) and None,
    )


def delivered(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return int(sum(float(value) for value in DELIVERED.findall(answer.read().decode())))


class Gateway:
    """A gateway over a queue, and what was measured of it."""

    def __init__(self, queue_url: str, pod_port: int) -> None:
        role = ["--role", "gateway", "--queue", queue_url, "--pod-port", str(pod_port)]
        self.process, self.port = start([sys.executable, __file__, *role])
        self.accepted: list[float] = []
        self.latencies: list[float] = []
        self.accept_cpu = 0.0

    async def accept(self, seconds: float) -> None:
        before, begin = cpu_seconds(self.process.pid), time.perf_counter()
        latencies = await send(self.port, seconds)
        self.accepted.append(len(latencies) / (time.perf_counter() - begin))
        self.accept_cpu += cpu_seconds(self.process.pid) - before
        self.latencies += latencies

    async def dispatch(self) -> dict[str, Any]:
        count = len(self.latencies)
        before, begin = cpu_seconds(self.process.pid), time.perf_counter()
        self.process.send_signal(signal.SIGUSR1)
        done, deadline = 0, begin + 300
        while done < count:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"only {done} of {count} events were run within 300 s")
            await asyncio.sleep(0.1)
            done = await asyncio.to_thread(delivered, self.port)
        seconds = time.perf_counter() - begin
        cpu = cpu_seconds(self.process.pid) - before
        median = statistics.median
        return {
            "accepted_per_s": round(median(self.accepted)),
            "accepted_p50_ms": round(median(self.latencies) * 1000, 2),
            "accepted_cpu_us": round(self.accept_cpu / count * 1e6),
            "backlog": count,
            "dispatched_per_s": round(count / seconds),
            "dispatched_cpu_us": round(cpu / count * 1e6),
            "rss_mib_after": round(rss_mib(self.process.pid), 1),
        }

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


async def measure(seconds: float, rounds: int, folder: Path, only: str | None) -> dict[str, Any]:
    stub, stub_port = start([sys.executable, str(Path(__file__).with_name("gateway.py")), "--role", "stub"])
    gateways: dict[str, Gateway] = {}
    try:
        with nats_server(folder / "nats") as nats_port:
            async with Raw.connected(nats_port) as raw:
                urls = {"jetstream": f"nats://127.0.0.1:{nats_port}", "sqlite": f"sqlite:{folder}/queue.sqlite"}
                for name, url in urls.items():
                    if only in (None, name):
                        gateways[name] = Gateway(url, stub_port)
                        print(f"{name}: the gateway is process {gateways[name].process.pid}", file=sys.stderr)
                published: list[float] = []
                for _ in range(rounds):
                    begin = time.perf_counter()
                    count = await raw.publish(seconds)
                    published.append(count / (time.perf_counter() - begin))
                    for gateway in gateways.values():
                        await gateway.accept(seconds)
                drained = await raw.drain()
                result: dict[str, Any] = {
                    "benchmark": "events",
                    "raw_jetstream": {
                        "published_per_s": round(statistics.median(published)),
                        "taken_and_confirmed_per_s": round(drained),
                    },
                }
                for name, gateway in gateways.items():
                    figures = await gateway.dispatch()
                    result[name] = {
                        **figures,
                        "accepted_ratio": round(figures["accepted_per_s"] / statistics.median(published), 3),
                        "dispatched_ratio": round(figures["dispatched_per_s"] / statistics.median(published), 3),
                    }
                for gateway in gateways.values():
                    gateway.stop()
                return result
    finally:
        for child in (stub, *(gateway.process for gateway in gateways.values())):
            child.terminate()
        for child in (stub, *(gateway.process for gateway in gateways.values())):
            child.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default: 1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["jetstream", "sqlite"], help="this queue alone")
    parser.add_argument("--role", choices=["gateway"], help=argparse.SUPPRESS)
    parser.add_argument("--announce", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--queue", help=argparse.SUPPRESS)
    parser.add_argument("--pod-port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        uvloop.run(gateway_role(options.announce, options.queue, options.pod_port))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = uvloop.run(measure(options.seconds, options.rounds, Path(folder), options.only))
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
