"""AWS' own client over a gateway that dies: its repetitions are the same event."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

JOB = """
def handler(event, context):
    return {"id": context.aws_request_id, "got": event}
"""
Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """A request or an answer, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(lengths[0])) if lengths else b"")


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await read_message(reader)
    finally:
        writer.close()


@asynccontextmanager
async def listening(serve: Connection) -> AsyncIterator[int]:
    """A port where each connection is `serve`'s."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_an_invocation_that_boto3_repeats_is_one_event(manifest: Any, kappa: Any, tmp_path: Path) -> None:
    manifest("job", JOB)
    queue = ("--queue", str(tmp_path / "queue.sqlite"))
    first = await kappa(options=queue)
    second: Any = None
    answers: list[bytes] = []

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The first request's gateway is killed when it has answered, and the answer never arrives."""
        nonlocal second
        with contextlib.suppress(asyncio.IncompleteReadError):
            request = await read_message(reader)
            if second is None:
                answers.append(await ask(first.port, request))
                first.signal(signal.SIGKILL)
                await first.wait()
                second = await kappa(options=queue)
            else:
                answers.append(await ask(second.port, request))
                writer.write(answers[-1])
                await writer.drain()
        writer.close()

    async with listening(between) as port:
        client = boto3.client(
            "lambda",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"mode": "standard", "max_attempts": 3}, read_timeout=60),
        )
        answer = await asyncio.to_thread(
            client.invoke, FunctionName="job", InvocationType="Event", Payload=b'{"order": 7}'
        )
        assert answer["Payload"].read() == b""
        client.close()
    assert answer["StatusCode"] == 202
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1
    assert [b" 202 " in given.split(b"\r\n")[0] for given in answers] == [True, True]
    assert b"kappa-duplicate: true" in answers[1].lower(), "the first gateway had stored it"
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert f"x-amzn-requestid: {request_id}".encode() in answers[0].lower(), "the id that the lost answer had"
    said = await second.outcome("job", request_id)
    assert said["result"] == {"id": request_id, "got": {"order": 7}}
    listed = (await second.request("GET", "/v1/namespaces/default/functions/job/async")).json["invocations"]
    assert [one["requestId"] for one in listed] == [request_id], "one event"
