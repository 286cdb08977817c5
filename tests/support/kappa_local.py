"""`kappa local up` as a process of its own, as a user runs it, and ways to ask it."""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class KappaLocal:
    """A running `kappa local up`; `port` and `url` are known after `start`."""

    def __init__(self, *paths: Path, options: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> None:
        self.paths = paths
        self.options = options
        self.output = ""
        self.port = 0
        self.temporary = Path(tempfile.mkdtemp(prefix="kappa-test-"))
        """What it takes for the system's temporary folder; `stop` removes it."""
        self.env = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "XDG_STATE_HOME": str(self.temporary / "state"),
            **(env or {}),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> "KappaLocal":
        """Returns once it serves. Fails the test with its output when it ends before."""
        await self.spawn()
        await eventually(
            lambda: "Try:" in self.output or "Edit a file" in self.output or self.ended, "the banner", within=30
        )
        match = re.search(r"on http://127\.0\.0\.1:(\d+)", self.output)
        assert match, f"it did not start:\n{self.output}"
        self.port = int(match[1])
        return self

    async def spawn(self) -> None:
        port = () if "--port" in self.options else ("--port", "0")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kappa_cli.main",
            "local",
            "up",
            *map(str, self.paths),
            *port,
            *self.options,
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(65536):
            self.output += chunk.decode(errors="replace")

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self, within: float = 15.0) -> int:
        """Its exit status (negative: the signal)."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(within):
            await self._process.wait()
            await self._reading
        return self._process.returncode or 0

    async def stop(self) -> int:
        if not self.ended:
            self.signal(signal.SIGINT)
        try:
            return await self.wait()
        finally:
            if not self.ended:
                self.signal(signal.SIGKILL)
            shutil.rmtree(self.temporary, ignore_errors=True)

    async def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return await asyncio.to_thread(self.request_now, method, path, body, headers)

    def request_now(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except http.client.RemoteDisconnected as error:
            # whoever meets this wants to know what it was about
            error.add_note(f"ended: {self.ended}; its output:\n{self.output[-4000:]}")
            raise
        finally:
            connection.close()

    async def invoke(self, name: str, event: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        path = f"/2015-03-31/functions/{name}/invocations"
        return await self.request("POST", path, json.dumps(event if event is not None else {}), headers)

    async def says(self, text: str, within: float = 15.0) -> None:
        await eventually(lambda: text in self.output, f"{text!r} in the output", within=within)

    def folders(self) -> list[Path]:
        """What it keeps in the temporary folder; the queue's file is elsewhere, and stays."""
        return [path for path in self.temporary.iterdir() if path.name != "state"]

    def children(self) -> set[int]:
        """Every process below it."""
        return descendants(self.pid)


def descendants(pid: int) -> set[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    queue = [pid]
    while queue:
        for child in parents.get(queue.pop(), ()):
            found.add(child)
            queue.append(child)
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run (a zombie does not)."""
    running = set()
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            running.add(pid)
    return running
