"""What an agent writes: its announcement and its output, each through a pipe of its own."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

_CHUNK: Final = 64 * 1024
"""Bytes that are read at a time, and the longest line."""


async def read_announcement(fd: int, *, within: float) -> int | None:
    """The port that the agent announces; None when it closes the pipe without one, or takes longer than `within`
    seconds. Closes `fd`."""
    async with _reader(fd) as reader:
        try:
            async with asyncio.timeout(within):
                line = await reader.readline()
            return int(json.loads(line)["port"]) if line else None
        except (TimeoutError, ValueError, KeyError, TypeError):
            return None


async def read_lines(fd: int, on_line: Callable[[str], None]) -> None:
    """Call `on_line` with each line until the pipe's other end is closed. Closes `fd`."""
    async with _reader(fd) as reader:
        buffer = b""
        while chunk := await reader.read(_CHUNK):
            *lines, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > _CHUNK:  # a line without an end
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\r"))
        if buffer:
            on_line(buffer.decode(errors="replace"))


@asynccontextmanager
async def _reader(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """Reads a pipe, and closes its descriptor once.

    uvloop's `connect_read_pipe` closes the descriptor twice: in libuv, then in the file object. A thread that opens a
    file between the two may get the same number and lose its file.
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
