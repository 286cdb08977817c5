"""awslambdaric's native module in Python, against a Runtime API that a test writes."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from scripted_server import ScriptedServer

from kappa_runtime.start import http_runtime_client as client

HEAD = {"Lambda-Runtime-Aws-Request-Id": "r-1", "Lambda-Runtime-Deadline-Ms": "1700000000000"}


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{server.port}")
        monkeypatch.setattr(client, "_client", None)
        client.initialize_client("aws-lambda-python/3")
        yield server
        assert client._client is not None
        client._client._connection.close()


async def test_the_next_invocation_in_the_shape_that_awslambdaric_reads(api: ScriptedServer) -> None:
    async def handler(_: web.Request) -> web.Response:
        more = {
            "Lambda-Runtime-Invoked-Function-Arn": "arn:hello",
            "Lambda-Runtime-Trace-Id": "Root=1",
            "Lambda-Runtime-Client-Context": '{"a":"é"}',
            "Lambda-Runtime-Cognito-Identity": "",
            "Lambda-Runtime-Aws-Tenant-Id": "tenant",
            "Lambda-Runtime-Invocation-Id": "i-1",
        }
        return web.Response(body=b"\0\xff", headers={**HEAD, **more}, content_type="application/json")

    api.handler = handler
    assert await asyncio.to_thread(client.next) == (
        b"\0\xff",
        {
            "Lambda-Runtime-Aws-Request-Id": "r-1",
            "Lambda-Runtime-Invoked-Function-Arn": "arn:hello",
            "Lambda-Runtime-Deadline-Ms": 1700000000000,
            "Lambda-Runtime-Trace-Id": "Root=1",
            "Lambda-Runtime-Client-Context": '{"a":"é"}',
            "Content-Type": "application/json",
            "Lambda-Runtime-Cognito-Identity": None,
            "Lambda-Runtime-Aws-Tenant-Id": "tenant",
            "Lambda-Runtime-Invocation-Id": "i-1",
        },
    )
    (request,) = api.requests
    assert (request.method, request.path) == ("GET", "/2018-06-01/runtime/invocation/next")
    assert request.headers["User-Agent"] == "aws-lambda-python/3"


async def test_headers_that_are_missing(api: ScriptedServer) -> None:
    api.answers((200, {}, {"Lambda-Runtime-Aws-Request-Id": "r-1"}))
    _, headers = await asyncio.to_thread(client.next)
    assert headers["Lambda-Runtime-Invoked-Function-Arn"] == ""
    assert headers["Lambda-Runtime-Deadline-Ms"] == 0
    assert [name for name, value in headers.items() if value is None] == [
        "Lambda-Runtime-Trace-Id",
        "Lambda-Runtime-Client-Context",
        "Lambda-Runtime-Cognito-Identity",
        "Lambda-Runtime-Aws-Tenant-Id",
        "Lambda-Runtime-Invocation-Id",
    ]


async def test_results_and_errors_on_one_connection(api: ScriptedServer) -> None:
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({"status": "OK"}, status=202, headers=HEAD)

    api.handler = handler
    await asyncio.to_thread(client.next)
    await asyncio.to_thread(client.post_invocation_result, "r-1", b"a\0b", "text/plain", None)
    await asyncio.to_thread(client.post_invocation_result, "r-2", b"", "application/json", "i-2")
    await asyncio.to_thread(client.post_error, "r-3", '{"errorMessage":"é"}', '{"x":"é"}', "i-3")
    await asyncio.to_thread(client.post_error, "r-4", "{}", "", None)
    assert len(peers) == 1
    assert api.bodies[1:] == [b"a\0b", b"", '{"errorMessage":"é"}'.encode(), b"{}"]
    seen = [
        tuple(
            request.headers.get(name)
            for name in ("Content-Type", "Lambda-Runtime-Invocation-Id", "Lambda-Runtime-Function-XRay-Error-Cause")
        )
        for request in api.requests[1:]
    ]
    assert [request.path.removeprefix("/2018-06-01/runtime/invocation/") for request in api.requests[1:]] == [
        "r-1/response",
        "r-2/response",
        "r-3/error",
        "r-4/error",
    ]
    assert seen == [
        ("text/plain", None, None),
        ("application/json", "i-2", None),
        ("application/json", "i-3", '{"x":"é"}'),
        ("application/json", None, None),
    ]


@pytest.mark.parametrize("status", [400, 413, 500])
async def test_a_failure_is_the_native_modules_error(api: ScriptedServer, status: int) -> None:
    api.answers((status, {"errorType": "No"}))
    with pytest.raises(RuntimeError, match=r"^Failed to get next$") as failed:
        await asyncio.to_thread(client.next)
    assert str(failed.value.__cause__) == f'HTTP status {status}: {{"errorType": "No"}}'
    with pytest.raises(RuntimeError, match=r"^Failed to post invocation response$"):
        await asyncio.to_thread(client.post_invocation_result, "r-1", b"", "application/json", None)
    with pytest.raises(RuntimeError, match=r"^Failed to post invocation error$"):
        await asyncio.to_thread(client.post_error, "r-1", "{}", "", None)


async def test_an_invocation_without_an_id_is_an_error(api: ScriptedServer) -> None:
    api.answers((200, {}))
    with pytest.raises(RuntimeError, match=r"^Failed to get next$"):
        await asyncio.to_thread(client.next)


async def test_a_kept_connection_that_was_closed_is_replaced_once(api: ScriptedServer) -> None:
    closes = [False, True, False, True, True]

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        if closes.pop(0):
            request.transport.abort()
        return web.json_response({}, headers=HEAD)

    api.handler = handler
    await asyncio.to_thread(client.next)
    await asyncio.to_thread(client.next)
    assert len(api.requests) == 3
    with pytest.raises(RuntimeError, match=r"^Failed to get next$"):
        await asyncio.to_thread(client.next)
    assert closes == []


async def test_a_runtime_api_that_is_gone(api: ScriptedServer) -> None:
    await api._runner.cleanup()
    with pytest.raises(RuntimeError, match=r"^Failed to get next$") as failed:
        await asyncio.to_thread(client.next)
    assert isinstance(failed.value.__cause__, ConnectionRefusedError)


def test_before_it_is_initialized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_client", None)
    with pytest.raises(RuntimeError, match=r"^Client not yet initialized$"):
        client.post_error("r-1", "{}", "", None)


@pytest.mark.parametrize(("missing", "loaded"), [("", "runtime"), ("sys.modules['runtime_client'] = None", "")])
def test_it_is_loaded_only_where_the_native_module_is_missing(tmp_path: Path, missing: str, loaded: str) -> None:
    script = f"""
import sys
{missing}
from kappa_runtime.start import python_runtime
python_runtime.ensure_runtime_client()
from awslambdaric import lambda_runtime_client
print(lambda_runtime_client.runtime_client.__name__)
print("kappa_runtime.start.http_runtime_client" in sys.modules, "http.client" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == (
        [loaded, "False", "False"] if loaded else ["kappa_runtime.start.http_runtime_client", "True", "True"]
    )
