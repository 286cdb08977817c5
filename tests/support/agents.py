"""Real agents on loopback: started, called over HTTP and stopped as a gateway and a kubelet do.

`launch` starts one from its configuration; `Agents` is what most tests use, see the fixture `agents`.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from kappa_core import specialize, wire
from kappa_core.agent_config import AgentConfig, PoolConfig
from kappa_core.specialize import Specialization

COMMAND = (sys.executable, "-I", "-m", "kappa_runtime")
WITHIN = 20.0
"""Seconds after which a test gives up waiting for a condition."""


def until(condition: Callable[[], Any], what: str, within: float = WITHIN) -> Any:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {within} s: {what}")


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str | None:
        return self.headers.get(wire.FUNCTION_ERROR)

    @property
    def log(self) -> str:
        return base64.b64decode(self.headers[wire.LOG_RESULT]).decode()


class Agent:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def connection(self, timeout: float = WITHIN) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())

    def invoke(self, event: Any = None, **headers: str) -> Reply:
        """`headers`: names with underscores for hyphens."""
        body = json.dumps({} if event is None else event).encode()
        return self.request(
            "POST", wire.INVOKE_PATH, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    def ready(self, wait: float = WITHIN) -> Reply:
        return self.request("GET", f"{wire.READY_PATH}?wait={wait}")

    def runtimes(self) -> list[int]:
        """The pids of its runtime processes."""
        return children(self.process.pid)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        self.terminate()
        return self.process.wait(WITHIN)


class Pooled(Agent):
    """An agent in a pool; `specialize` sends what a gateway would."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, log: Path, key: SigningKey, task_root: Path
    ) -> None:
        super().__init__(process, port, log)
        self.key = key
        self.task_root = task_root

    def body(
        self,
        code: str = "",
        event: Any = None,
        *,
        env: dict[str, str] | None = None,
        zipped: bytes = b"",
        key: SigningKey | None = None,
        changes: dict[str, Any] | None = None,
        **config: Any,
    ) -> bytes:
        """`changes` to the `Specialization`, `config` as in `AgentConfig`."""
        settings = {
            "function_name": "hello",
            "runtime": "python3.13",
            "handler": "main.handler",
            "code_inline": textwrap.dedent(code),
            "timeout": 10.0,
        }
        asked = {
            "pod_uid": "uid-1",
            "request_id": "r-1",
            "spec_hash": "spec-1",
            "issued_at": time.time(),
            "config": AgentConfig(**(settings | config)),
            "env": env or {},
        }
        return specialize.encode(
            Specialization(**(asked | (changes or {}))),
            code=zipped,
            payload=json.dumps({} if event is None else event).encode(),
            sign=lambda message: (key or self.key).sign(message).signature,
        )

    def specialize(
        self, code: str = "", event: Any = None, headers: dict[str, str] | None = None, **more: Any
    ) -> Reply:
        return self.request("POST", wire.SPECIALIZE_PATH, self.body(code, event, **more), headers)


def launch(
    config: AgentConfig | PoolConfig,
    folder: Path,
    log: Path,
    *,
    env: dict[str, str] | None = None,
    stdout: int | None = None,
    command: Sequence[str] = COMMAND,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start an agent in a folder: its process, and its port once it listens. Its output goes to `log` and `stdout`."""
    read_end, write_end = os.pipe()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], **(env or {}), **config.replace(announce_fd=write_end).to_env()},
            stdin=subprocess.DEVNULL,
            stdout=file if stdout is None else stdout,
            stderr=file,
            pass_fds=(write_end,),
            cwd=folder,
        )
    os.close(write_end)
    with os.fdopen(read_end) as announced:
        line = announced.readline()
    assert line, f"the agent announced no port: {log.read_text()}"
    return process, json.loads(line)["port"]


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Agents:
    def __init__(self, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self.folder = folder
        self._command = command
        self._running: list[Agent] = []

    def start(
        self,
        code: str = "",
        *,
        env: dict[str, str] | None = None,
        stdout: int | None = None,
        files: dict[str, str] | None = None,
        **config: Any,
    ) -> Agent:
        """An agent of inline code (dedented); `config` as in `AgentConfig`."""
        number = len(self._running)
        task_root = self.folder / f"task{number}"
        task_root.mkdir()
        for name, text in (files or {}).items():
            path = task_root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
            path.chmod(0o755)
        settings: dict[str, Any] = {
            "function_name": "hello",
            "runtime": "python3.13",
            "handler": "main.handler",
            "code_inline": textwrap.dedent(code),
            "task_root": str(task_root),
            "host": "127.0.0.1",
            "port": 0,
            "runtime_api_port": 0,
            "timeout": 10.0,
            "parent_death": True,
        }
        process, port, log = self._run(AgentConfig(**(settings | config)), env, stdout)
        agent = Agent(process, port, log)
        self._running.append(agent)
        return agent

    def start_pool(self, *, env: dict[str, str] | None = None, waits: bool = True, **config: Any) -> Pooled:
        """A pool's agent, whose runtime process waits; `config` as in `PoolConfig`."""
        task_root = self.folder / f"task{len(self._running)}"
        task_root.mkdir()
        key = SigningKey.generate()
        settings: dict[str, Any] = {
            "pool_public_key": base64.b64encode(bytes(key.verify_key)).decode(),
            "pod_uid": "uid-1",
            "runtime": "python3.13",
            "task_root": str(task_root),
            "host": "127.0.0.1",
            "port": 0,
            "runtime_api_port": 0,
            "parent_death": True,
        }
        process, port, log = self._run(PoolConfig(**(settings | config)), env, None)
        agent = Pooled(process, port, log, key, task_root)
        self._running.append(agent)
        if waits:
            assert agent.ready().json == {"state": "pool"}
        return agent

    def _run(
        self, config: AgentConfig | PoolConfig, env: dict[str, str] | None, stdout: int | None
    ) -> tuple[subprocess.Popen[bytes], int, Path]:
        log = self.folder / f"log{len(self._running)}"
        process, port = launch(config, self.folder, log, env=env, stdout=stdout, command=self._command)
        return process, port, log

    def stop(self) -> None:
        for agent in self._running:
            if agent.process.poll() is None:
                agent.process.kill()
            agent.process.wait()
