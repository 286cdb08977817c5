"""The client over HTTP: what it sends, and what it makes of answers."""

import asyncio
import json

import pytest
from aiohttp import web
from scripted_server import ScriptedServer

from kappa_kube.client import Client
from kappa_kube.connection import Connection
from kappa_kube.errors import ApiError, Disconnected, Expired, NotLeader


async def test_apply_is_a_patch_with_its_content_type_manager_and_token(server: ScriptedServer, api: Client) -> None:
    server.answers((200, {"ok": True}))
    assert await api.apply("/apis/x", {"a": 1}, force=False) == {"ok": True}
    request = server.requests[0]
    assert (request.method, request.content_type) == ("PATCH", "application/apply-patch+yaml")
    assert dict(request.query) == {"fieldManager": "kappa-operator", "force": "false"}
    assert request.headers["Authorization"] == "Bearer secret"
    assert json.loads(server.bodies[0]) == {"a": 1}


async def test_a_refusal_keeps_kubernetes_words(server: ScriptedServer, api: Client) -> None:
    server.answers((429, {"reason": "TooManyRequests", "message": "slow down"}, {"Retry-After": "3"}))
    with pytest.raises(ApiError) as refused:
        await api.get("/x")
    assert (refused.value.status, refused.value.reason, refused.value.retry_after) == (429, "TooManyRequests", 3.0)
    assert "slow down" in str(refused.value)


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", "", "[]", "null"])
async def test_a_refusal_that_is_not_json_is_still_a_refusal(server: ScriptedServer, api: Client, body: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=body, status=502)

    server.handler = handler
    with pytest.raises(ApiError) as refused:
        await api.get("/x")
    assert refused.value.status == 502


async def test_lists_are_read_page_by_page(server: ScriptedServer, api: Client) -> None:
    server.answers(
        (200, {"items": [{"n": 1}, {"n": 2}], "metadata": {"continue": "t1"}}),
        (200, {"items": [{"n": 3}], "metadata": {}}),
    )
    pages = [page async for page in api.pages("/x", labelSelector="a=b")]
    assert [item["n"] for page in pages for item in page["items"]] == [1, 2, 3]
    assert server.requests[1].query["continue"] == "t1"
    assert {request.query["labelSelector"] for request in server.requests} == {"a=b"}


async def test_without_the_lease_nothing_is_written_but_reads_go_on(
    server: ScriptedServer, connection: Connection
) -> None:
    server.answers((200, {}))
    held = False
    api = Client(connection, "kappa-operator", lambda: held)
    for write in (
        api.apply("/x", {}),
        api.merge_patch("/x", {}),
        api.strategic_patch("/x", {}),
        api.create("/x", {}),
        api.replace("/x", {}),
        api.delete("/x", "u"),
    ):
        with pytest.raises(NotLeader):
            await write
    assert server.requests == []
    await api.get("/x")
    await Client(connection, "kappa-operator").replace("/lease", {}, timeout=1.0)
    held = True
    await api.merge_patch("/x", {})
    assert [request.method for request in server.requests] == ["GET", "PUT", "PATCH"]


async def test_a_silent_watch_is_given_up(server: ScriptedServer, api: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type": "ADDED"}\n')
        await asyncio.sleep(30)
        return response

    server.handler = handler
    events = api.watch("/x", {}, silence=0.1)
    assert (await anext(events))["type"] == "ADDED"
    with pytest.raises(Disconnected, match="silent"):
        await anext(events)


async def test_an_event_as_large_as_etcd_stores_is_read(server: ScriptedServer, api: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps({"type": "ADDED", "object": "x" * 3_000_000}).encode() + b"\n")
        await response.write(b"y" * 20_000_000 + b"\n")
        return response

    server.handler = handler
    events = api.watch("/x", {}, silence=5)
    assert len((await anext(events))["object"]) == 3_000_000
    with pytest.raises(Disconnected, match="cannot be read"):
        await anext(events)


async def test_an_answer_that_does_not_come_or_cannot_be_read_is_one_kind_of_error(
    server: ScriptedServer, api: Client
) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    server.handler = silent
    with pytest.raises(Disconnected, match="no answer in time"):
        await api.create("/x", {}, timeout=0.05)
    server.handler = nonsense
    with pytest.raises(Disconnected, match="cannot be read"):
        await api.get("/x")


async def test_a_delete_is_of_one_object_only_and_of_one_that_is_gone_no_error(
    server: ScriptedServer, api: Client
) -> None:
    server.answers((404, {}), (409, {}), (403, {"message": "no"}))
    await api.delete("/x", "uid-1")
    await api.delete("/x", "uid-1")
    assert {json.loads(body)["preconditions"]["uid"] for body in server.bodies} == {"uid-1"}
    with pytest.raises(ApiError, match="no"):
        await api.delete("/x", "uid-1")


async def test_a_list_that_takes_too_long_says_so(server: ScriptedServer, api: Client) -> None:
    server.answers((200, {"items": [], "metadata": {"continue": "t1"}}), (410, {"message": "too old"}))
    with pytest.raises(Expired):
        [page async for page in api.pages("/x")]
