"""One "pod" of local mode: an agent process of this machine, from its start to its end."""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Final

from kappa_core import containers, wire
from kappa_core.agent_config import AgentConfig, PoolConfig
from kappa_gateway.local.resolve import Workload

ANNOUNCE_TIMEOUT: Final = 30.0
"""Seconds in which an agent must listen."""
STOP_MARGIN: Final = 3.0
"""Seconds on top of the function's timeout in which a stopping agent must end; then it is killed."""
_LAST_WORDS: Final = 0.5
"""Seconds in which what an ended agent wrote is still read, if something that it started holds its output open."""
_READY_WAIT: Final = 30.0
"""Seconds that one readiness request is held; it is asked again until known."""
_CHUNK: Final = 64 * 1024
"""Bytes of output that are read at a time, and that a line may have."""
_INHERITED: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    }
)


class Readiness(Enum):
    STARTING = "starting"
    READY = "ready"
    INIT_FAILED = "init_failed"


class AgentProcess:
    """`spawn`, then `pump` beside `listening` and `wait_ready`; `terminate` or `kill` at any time."""

    def __init__(self, name: str, workload: Workload | None, folder: Path, on_line: Callable[[str], None]) -> None:
        self.name = name
        self.workload = workload
        """None while it is spare: no function's yet."""
        self.on_line = on_line
        """Called with each line that it writes."""
        self.port: int | None = None
        self.readiness = Readiness.STARTING
        self.stopping = False
        self.started_at: float | None = None
        """Seconds since the epoch."""
        self._announcement = -1
        self._output = -1
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def spawn(self, config: AgentConfig | PoolConfig) -> None:
        """Start it. Raises `OSError`."""
        files, env = (self.workload.files, self.workload.env) if self.workload is not None else ({}, {})
        await asyncio.to_thread(_lay_out, self._folder, files)
        read_end, write_end = os.pipe()
        output, child_output = os.pipe()
        try:
            told = config.replace(announce_fd=write_end, task_root=str(self._folder), pod_name=self.name)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # not the current folder first: a user's json.py there must not become the agent's
                "-m",
                "kappa_runtime",
                env={**inherited(os.environ), **env, **told.to_env()},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=child_output,
                stderr=child_output,
                pass_fds=(write_end,),
                start_new_session=True,  # Ctrl-C is for the gateway, which then stops its agents in order
            )
        except BaseException:
            os.close(read_end)
            os.close(output)
            raise
        finally:
            os.close(write_end)
            os.close(child_output)
        self.started_at = time.time()
        self._announcement, self._output = read_end, output
        if self.stopping:  # told to stop while it was being started
            self._signal(signal.SIGTERM)

    async def listening(self) -> int | None:
        """The port that it listens on, once it does; None if it ends, or takes too long, before."""
        self.port = await _announced(self._announcement)
        return self.port

    async def pump(self) -> int:
        """Pass on every line that it writes, until it has ended; its exit code (negative: the signal)."""
        assert self._process is not None, "spawned"
        # A pipe of our own, because asyncio's makes wait() last until everyone has closed it: a program that the
        # function left behind would keep its agent alive for us.
        reading = asyncio.create_task(_read_lines(self._output, lambda line: self.on_line(line)))
        try:
            code = await self._process.wait()
            await asyncio.wait({reading}, timeout=_LAST_WORDS)
        finally:
            reading.cancel()
            self.kill_group()
            await asyncio.gather(reading, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        return code

    async def wait_ready(self) -> Readiness:
        """Hold until its runtime process asks for work, or did not start. Raises `OSError` when it cannot be asked."""
        while self.readiness is Readiness.STARTING:
            status, body = await _get(self.port or 0, f"{wire.READY_PATH}?wait={_READY_WAIT:g}", _READY_WAIT + 10)
            if status == 200:
                self.readiness = Readiness.READY
            elif body.get("state") == wire.INIT_FAILED:
                self.readiness = Readiness.INIT_FAILED
            elif body.get("state") == wire.DRAINING:
                break
        return self.readiness

    def terminate(self) -> None:
        """Ask it to finish what it has and end."""
        self.stopping = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with all that it started."""
        if self._process is not None and self._process.returncode is None:
            self.kill_group()

    def kill_group(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def agent_config(workload: Workload, *, region: str, account: str) -> AgentConfig:
    """What the agent of this function is told; its own folder and pipe are added when it is started."""
    function = workload.function
    return containers.agent_config(function, containers.Platform(region=region, account=account)).replace(
        host="127.0.0.1",
        port=0,
        runtime_api_port=0,
        drain_timeout=function.spec.timeout_seconds,
        parent_death=True,
    )


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What of this shell's environment a function sees: paths, locale, proxies and AWS credentials; nothing else, so
    that a function does not come to depend on a variable that a cluster will not have."""
    return {
        name: value
        for name, value in env.items()
        if name in _INHERITED
        or name.startswith("LC_")
        or (name.startswith("AWS_") and not name.startswith("AWS_LAMBDA_"))
    }


def _lay_out(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def _announced(read_end: int) -> int | None:
    """The port that the agent writes to its end of the pipe; None when it closes it without, or is too slow."""
    async with _reader(read_end) as reader:
        try:
            async with asyncio.timeout(ANNOUNCE_TIMEOUT):
                line = await reader.readline()
            return int(json.loads(line)["port"]) if line else None
        except (TimeoutError, ValueError, KeyError, TypeError):
            return None


async def _read_lines(output: int, on_line: Callable[[str], None]) -> None:
    async with _reader(output) as reader:
        buffer = b""
        while chunk := await reader.read(_CHUNK):
            *lines, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > _CHUNK:  # a line without end
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\r"))
        if buffer:
            on_line(buffer.decode(errors="replace"))


@asynccontextmanager
async def _reader(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """What comes through a pipe, which is closed in the end: once.

    uvloop's `connect_read_pipe` would close the pipe's number twice: by libuv, then by the file object. Between the two
    a thread that opens a file may be given that number and lose it again; what takes it next, such as a client's
    connection, is closed when the thread closes its file.
    """
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()

    def readable() -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            reader.feed_data(data)
        else:
            loop.remove_reader(fd)
            reader.feed_eof()

    os.set_blocking(fd, False)
    loop.add_reader(fd, readable)
    try:
        yield reader
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def _get(port: int, path: str, timeout: float) -> tuple[int, dict[str, object]]:
    """(status, JSON object) of one request to the agent. Raises `OSError` when it cannot be asked."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(256 * 1024)
                while not reader.at_eof():
                    more = await reader.read(256 * 1024)
                    answer += more
            finally:
                writer.close()
    except TimeoutError as error:
        raise OSError("the agent does not answer") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(None, 2)[1])
        value = json.loads(body) if body else {}
    except (ValueError, IndexError) as error:
        raise OSError("the agent's answer cannot be read") from error
    return status, value if isinstance(value, dict) else {}
