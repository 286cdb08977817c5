"""The command `kappa`: in this process, which takes milliseconds, or as a process of its own, as a user runs it."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from typer.testing import CliRunner

from kappa_cli.app import app

ENV = {"COLUMNS": "100"}


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


async def run_command(*args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Ran:
    """Run it in this process, one at a time. Its standard input is not a terminal."""
    result = await asyncio.to_thread(
        CliRunner().invoke,
        app,
        args,
        input=stdin,
        env={**ENV, **(env or {})},
        prog_name="kappa",
        catch_exceptions=False,
    )
    return Ran(result.exit_code, result.stdout, result.stderr)


async def spawn_command(*args: str, stdin: int | None = None, env: Mapping[str, str] | None = None) -> "Spawned":
    """Start it as a process. `stdin` is a file descriptor; without one it is empty."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kappa_cli.main",
        *args,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENV, **(env or {})},
    )
    return Spawned(process)


class Spawned:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ran(self) -> Ran:
        """What it printed and its exit status, once it has ended."""
        async with asyncio.timeout(60):
            out, err = await self._process.communicate()
        return Ran(self._process.returncode or 0, out.decode(), err.decode())
