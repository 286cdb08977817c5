"""For tests of destinations: deliveries, and a web server on loopback whose answers a test chooses byte for byte."""

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kappa_core import destinations
from kappa_core.event import Event, Kind, Lane

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are given in turn, the last one again and again."""

    url: str
    answers: list[bytes | Answer]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A complete answer; underscores in the headers' names become dashes."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Some\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


@asynccontextmanager
async def receiver(answers: list[bytes | Answer], tls: ssl.SSLContext | None, host: str) -> AsyncIterator[Receiver]:
    found = Receiver("", answers)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        found.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.rstrip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in rest)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                found.requests.append(Request(line, headers, body))
                given = answers.pop(0) if len(answers) > 1 else answers[0]
                if isinstance(given, bytes):
                    writer.write(given)
                    await writer.drain()
                else:
                    await given(writer)
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            serving.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    name = f"[{host}]" if ":" in host else host
    found.url = f"{'https' if tls else 'http'}://{name}:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield found
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
        await server.wait_closed()


def delivery(payload: bytes = b'{"version": "1.0"}', **destination: Any) -> Event:
    """`delivery(http={"url": …})`: an event that an ending would have made."""
    return Event(
        str(uuid.uuid4()),
        Lane(Kind.DELIVERY, "team-a", "resize"),
        payload,
        1_700_000_000.0,
        {
            destinations.DESTINATION: json.dumps(destination),
            destinations.PURPOSE: "onFailure",
            destinations.CONDITION: "RetriesExhausted",
            destinations.REQUEST_ID: "c0ffee",
            destinations.TIMESTAMP: "2023-11-14T22:13:20.000Z",
        },
    )
