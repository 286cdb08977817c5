"""One agent process, from its start to its end."""

import asyncio
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kappa_cli.local.processes.launch import Launch, inherited
from kappa_cli.local.processes.pipes import read_announcement, read_lines
from kappa_cli.local.processes.platforms import agent_environment
from kappa_cli.local.processes.readiness import Readiness, await_readiness

logger = logging.getLogger(__name__)

ANNOUNCE_TIMEOUT: Final = 30.0
"""Seconds in which an agent must listen."""
_LAST_OUTPUT: Final = 0.5
"""Seconds in which the output of an ended agent is still read, if a program that it started holds the pipe open."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended."""

    how: str
    """Such as `was killed by signal 9`."""
    lived: float
    """Seconds since its start."""


class AgentProcess:
    """`start` begins its life and `ended` waits for the end; `terminate` and `kill` bring it about.

    `on_line` is called with each line of its output.
    """

    def __init__(self, name: str, folder: Path, on_line: Callable[[str], None]) -> None:
        self.name = name
        self.created_at = time.time()
        self.started_at: float | None = None
        """Both in seconds since the epoch."""
        self.port: int | None = None
        """Known once it listens."""
        self.readiness = Readiness.STARTING
        self.stopping = False
        """It was asked to end."""
        self._folder = folder
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._life: asyncio.Task[Ending] | None = None

    def start(self, launch: Launch, on_change: Callable[[], None]) -> None:
        """Start it. `on_change` is called when it listens, and again when its readiness is known."""
        self._life = asyncio.create_task(self._live(launch, on_change), name=f"agent {self.name}")

    async def ended(self) -> Ending:
        """Returns once it has ended, or could not be started."""
        assert self._life is not None, "started"
        await asyncio.wait({self._life})
        return self._life.result()

    def give_function(self, on_line: Callable[[str], None]) -> None:
        """A spare process has got its function, and answered for it: it is ready, and its output is the function's."""
        self.readiness = Readiness.READY
        self._on_line = on_line

    def terminate(self, within: float) -> None:
        """Ask it to finish its invocations and to end; kill it after `within` seconds."""
        self.stopping = True
        self._signal()
        asyncio.get_running_loop().call_later(within, self.kill)

    def kill(self) -> None:
        """End it now, with everything that it started."""
        self.stopping = True
        if self._process is not None and self._process.returncode is None:
            self._kill_group()

    # -- its life

    async def _live(self, launch: Launch, on_change: Callable[[], None]) -> Ending:
        begun = time.monotonic()
        try:
            process, announcement, output = await self._spawn(launch)
        except (OSError, ValueError) as error:  # ValueError: a variable that no process can have
            return Ending(f"could not be started: {error}", time.monotonic() - begun)
        self._process, self.started_at = process, time.time()
        if self.stopping:  # asked to end while it was being started
            self._signal()
        # The output has a pipe of ours. With asyncio's, wait() lasts until everybody has closed it, so a program that
        # the function left behind would keep its agent alive for us.
        reading = asyncio.create_task(read_lines(output, lambda line: self._on_line(line)))
        starting = asyncio.create_task(self._become_ready(announcement, on_change, probe=launch.has_function))
        try:
            code = await process.wait()
            await asyncio.wait({reading}, timeout=_LAST_OUTPUT)
        finally:
            reading.cancel()
            starting.cancel()
            self._kill_group()
            for outcome in await asyncio.gather(reading, starting, return_exceptions=True):
                if isinstance(outcome, Exception):
                    logger.error("a bug in local mode", exc_info=outcome, extra={"agent": self.name})
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        return Ending(_describe(code, listened=self.port is not None), time.monotonic() - begun)

    async def _spawn(self, launch: Launch) -> tuple[asyncio.subprocess.Process, int, int]:
        """(process, the announcement's pipe, the output's pipe). Raises `OSError` or `ValueError`."""
        await asyncio.to_thread(_write_files, self._folder, launch.files)
        announcement, child_announcement = os.pipe()
        output, child_output = os.pipe()
        config = launch.config.replace(announce_fd=child_announcement, task_root=str(self._folder), pod_name=self.name)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the current folder stays off sys.path: a user's json.py there must not become the agent's
                "-m",
                "kappa_runtime",
                env={**inherited(os.environ), **agent_environment(), **launch.env, **config.to_env()},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=child_output,
                stderr=child_output,
                pass_fds=(child_announcement,),
                start_new_session=True,  # Ctrl-C reaches only the gateway, which then stops its agents in order
            )
        except BaseException:
            os.close(announcement)
            os.close(output)
            raise
        finally:
            os.close(child_announcement)
            os.close(child_output)
        return process, announcement, output

    async def _become_ready(self, announcement: int, on_change: Callable[[], None], *, probe: bool) -> None:
        self.port = await read_announcement(announcement, within=ANNOUNCE_TIMEOUT)
        if self.port is None:
            self._kill_group()
            return
        on_change()
        if not probe:
            return
        try:
            self.readiness = await await_readiness(self.port)
        except OSError:
            return  # it is ending, and `_live` notices
        on_change()

    def _signal(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def _kill_group(self) -> None:
        if self._process is not None:
            # macOS answers with EPERM where only zombies are left
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


NewProcess = Callable[[str, Path, Callable[[str], None]], AgentProcess]
"""(name, folder, on_line): how a process is made; tests make others."""


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _describe(code: int, *, listened: bool) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended by itself with exit status {code}"
    return how if listened else f"{how} before it could take a request"
