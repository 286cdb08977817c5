"""`kappa local up` as a process of its own, as a user runs it, and ways to ask it."""

import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

from processes import descendants
from waiting import eventually

NO_SPARE = ("--spare", "0")
"""Every child process is then a function's."""
HELLO = 'def handler(event, context):\n    return {"hello": event.get("name", "world")}'


def returning(value: object) -> str:
    """Code of a function that returns this."""
    return f"def handler(event, context):\n    return {value!r}"


FUNCTION = """
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {{name: {name}}}
spec:
  runtime: python3.13
  handler: main.handler
  timeout: {timeout}
  concurrency: {concurrency}
  scaling: {{keepWarm: {keep_warm}, maxReplicas: {max_replicas}}}
  {spec}
  code:
    inline: |
{code}
"""


def manifest_text(
    name: str,
    code: str,
    *,
    timeout: str = "10s",
    concurrency: int = 1,
    keep_warm: str = "5m",
    max_replicas: int = 10,
    spec: str = "",
) -> str:
    """A Function with inline code; `spec` is one more line of its spec."""
    return FUNCTION.format(
        name=name,
        code=indent(code.strip("\n"), "      "),
        timeout=timeout,
        concurrency=concurrency,
        keep_warm=keep_warm,
        max_replicas=max_replicas,
        spec=spec,
    )


def lasting_port() -> int:
    """A free port that stays free while nothing listens on it: the system gives nobody else a port of this range."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


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

    def __init__(
        self,
        *paths: Path,
        options: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.paths = paths
        self._python = python
        self.options = options
        self.output = ""
        self.port = 0
        self.temporary = Path(tempfile.mkdtemp(prefix="kappa-test-"))
        """Its temporary folder (TMPDIR); `stop` removes it."""
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
        await eventually(lambda: "Edit a file" in self.output or self.ended, "the banner", within=60)
        match = re.search(r"on http://127\.0\.0\.1:(\d+)", self.output)
        assert match, f"it did not start:\n{self.output}"
        self.port = int(match[1])
        return self

    async def spawn(self) -> None:
        port = () if "--port" in self.options else ("--port", "0")
        self._process = await asyncio.create_subprocess_exec(
            self._python,
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

    async def wait(self, within: float = 60.0) -> int:
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
            error.add_note(f"ended: {self.ended}; its output:\n{self.output[-4000:]}")
            raise
        finally:
            connection.close()

    async def invoke(self, name: str, event: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        path = f"/2015-03-31/functions/{name}/invocations"
        return await self.request("POST", path, json.dumps(event if event is not None else {}), headers)

    def invoke_now(self, name: str) -> Answer:
        """As `invoke`, for the conditions of `eventually`."""
        return self.request_now("POST", f"/2015-03-31/functions/{name}/invocations", "{}")

    async def outcome(self, function: str, request_id: str) -> Any:
        """What the status API says of an asynchronous invocation, once it has ended."""
        path = f"/v1/namespaces/default/functions/{function}/async/{request_id}"

        def ended() -> Any:
            said = self.request_now("GET", path).json
            return said if said["status"] in ("succeeded", "failed", "expired") else None

        return await eventually(ended, f"the end of {request_id}", within=60)

    async def says(self, text: str, within: float = 60.0) -> None:
        await eventually(lambda: text in self.output, f"{text!r} in the output", within=within)

    def folders(self) -> list[Path]:
        """What it keeps in the temporary folder, except the queue's file, which stays."""
        return [path for path in self.temporary.iterdir() if path.name != "state"]

    def children(self) -> set[int]:
        """Every process below it."""
        return descendants(self.pid)
