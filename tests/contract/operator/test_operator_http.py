"""The operator over HTTP, against servers on loopback: full lists, gateways, demand streams and init probes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_api_server import write_kubeconfig
from scripted_server import Handler, ScriptedServer
from waiting import eventually

from kappa_core.demand import DemandReport, FunctionDemand, encode
from kappa_core.observed import PodFacts
from kappa_core.reasons import Reason
from kappa_kube.client import Client
from kappa_kube.connection import Connection
from kappa_kube.errors import ApiError
from kappa_operator import gateways
from kappa_operator.cache import Cache
from kappa_operator.demand_stream import DemandStreams
from kappa_operator.probes import InitProbes
from kappa_operator.relist import Relister
from kappa_operator.watch import Watcher


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def api(server: Any, tmp_path: Path) -> AsyncIterator[Client]:
    write_kubeconfig(tmp_path / "kubeconfig", server.url, "secret")
    async with Connection("kappa-operator", kubeconfig=str(tmp_path / "kubeconfig")) as connection:
        yield Client(connection, "kappa-operator")


async def until(condition: Callable[[], Any]) -> None:
    await eventually(condition, "the condition")


# Full lists


async def test_a_full_list_finds_what_a_watch_missed(server: ScriptedServer, api: Client) -> None:
    def function(name: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "default", "uid": name, "generation": 1, "resourceVersion": "5"}
        spec = {"runtime": "p", "handler": "m.h", "code": {"inline": "x"}}
        return {"metadata": metadata, "spec": spec}

    async def handler(request: web.Request) -> web.Response:
        items = [function("stays"), function("missed")] if request.path.endswith("functions") else []
        return web.json_response({"items": items, "metadata": {}})

    server.handler = handler
    cache = Cache()
    watcher = Watcher(cache, lambda key: None)
    for name in ("stays", "ghost"):
        watcher.function(function(name), gone=False)
    keys = await Relister(api, cache, [], "!kappa.run/operator").relist()
    assert keys == {"default/stays", "default/missed", "default/ghost"}, "the ghost too, so that it is forgotten"
    assert set(cache.functions) == {"default/stays", "default/missed"}
    selectors = {request.path.rsplit("/", 1)[1]: request.query.get("labelSelector") for request in server.requests}
    assert selectors["functions"] == "!kappa.run/operator"


async def test_a_missing_namespace_keeps_no_other_from_being_served(server: ScriptedServer, api: Client) -> None:
    there = {"a"}

    async def handler(request: web.Request) -> web.Response:
        namespace = request.path.split("/namespaces/")[1].split("/")[0]
        if namespace not in there:
            return web.json_response({"kind": "Status", "message": f"forbidden in {namespace}"}, status=403)
        metadata = {"name": "f", "namespace": namespace, "uid": "u", "generation": 1, "resourceVersion": "5"}
        spec = {"runtime": "p", "handler": "m.h", "code": {"inline": "x"}}
        items = [{"metadata": metadata, "spec": spec}] if request.path.endswith("functions") else []
        return web.json_response({"items": items, "metadata": {}})

    server.handler = handler
    cache = Cache()
    relister = Relister(api, cache, ["a", "gone"], "!kappa.run/operator")
    assert await relister.relist() == {"a/f"}
    assert relister.served == ["a"]
    there.add("gone")
    assert await relister.relist() == {"a/f", "gone/f"}
    assert relister.served == ["a", "gone"]
    there.clear()
    with pytest.raises(ApiError, match="forbidden"):
        await relister.relist()


# Gateways and their demand


async def test_gateway_pods_are_followed_as_they_come_and_go(server: ScriptedServer, api: Client) -> None:
    def pod(name: str, **status: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "system", "resourceVersion": "8"}
        return {"metadata": metadata, "status": status}

    async def handler(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            items = [pod("a", podIP="10.0.0.1"), pod("b")]
            return web.json_response({"items": items, "metadata": {"resourceVersion": "7"}})
        response = web.StreamResponse()
        await response.prepare(request)
        for kind, item in (
            ("MODIFIED", pod("b", podIP="fd00::1")),
            ("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
            ("MODIFIED", pod("a", podIP="10.0.0.1", phase="Failed")),
        ):
            await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
        await asyncio.sleep(30)
        return response

    server.handler = handler
    seen: list[dict[str, str]] = []
    task = asyncio.create_task(gateways.follow(api, "system", lambda urls: seen.append(dict(urls))))
    await until(lambda: len(seen) == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [
        {"a": "http://10.0.0.1:8081"},
        {"a": "http://10.0.0.1:8081", "b": "http://[fd00::1]:8081"},
        {"b": "http://[fd00::1]:8081"},
    ]


class Sink:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def connected(self, gateway: str) -> None:
        self.calls.append("connected")

    def disconnected(self, gateway: str) -> None:
        self.calls.append("disconnected")

    def report(self, gateway: str, report: DemandReport) -> None:
        self.calls.append("full" if report.full else "partial")


class Streaming:
    def __init__(self, sink: Sink, url: str, timeout: float = 5.0) -> None:
        self.streams = DemandStreams(sink, timeout)
        self.streams.set_gateways({"g": url})

    async def __aenter__(self) -> DemandStreams:
        self.task = asyncio.create_task(self.streams.run())
        return self.streams

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def report(*, full: bool, pods: int = 0) -> bytes:
    demand = FunctionDemand("default", "hello", pods={f"pod-{n}": n for n in range(pods)})
    return encode(DemandReport("g", full, (demand,)))


def stream(*pieces: bytes, hold: float = 0.0) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        await asyncio.sleep(hold)
        return response

    return handler


async def test_a_gateway_counts_as_connected_with_its_first_full_report(server: ScriptedServer) -> None:
    server.handler = stream(report(full=False), report(full=True), report(full=False), hold=30)
    sink = Sink()
    async with Streaming(sink, server.url):
        await until(lambda: len(sink.calls) == 4)
        assert sink.calls == ["partial", "connected", "full", "partial"]
        assert server.requests[0].path == "/v1/demand"
    assert sink.calls[-1] == "disconnected"


async def test_reports_are_read_however_they_are_cut_and_however_long(server: ScriptedServer) -> None:
    line = report(full=True, pods=50_000)
    assert len(line) > 500_000
    server.handler = stream(
        line[:7], line[7:300_000], line[300_000:] + report(full=False)[:5], report(full=False)[5:], hold=30
    )
    sink = Sink()
    async with Streaming(sink, server.url):
        await until(lambda: len(sink.calls) == 3)
    assert sink.calls[:3] == ["connected", "full", "partial"]


@pytest.mark.parametrize("last", [b"", b"nonsense\n", b'{"gateway": 1}\n'])
async def test_a_stream_that_ends_or_breaks_is_opened_again(server: ScriptedServer, last: bytes) -> None:
    server.handler = stream(report(full=True), last)
    sink = Sink()
    async with Streaming(sink, server.url):
        await until(lambda: sink.calls.count("connected") == 2)
    assert sink.calls[:4] == ["connected", "full", "disconnected", "connected"]


async def test_a_silent_stream_counts_as_lost(server: ScriptedServer) -> None:
    server.handler = stream(report(full=True), hold=30)
    sink = Sink()
    async with Streaming(sink, server.url, timeout=0.1):
        await until(lambda: "disconnected" in sink.calls)
    assert sink.calls[:3] == ["connected", "full", "disconnected"]


async def test_a_gateway_that_goes_is_followed_no_more(server: ScriptedServer) -> None:
    server.handler = stream(report(full=True), hold=30)
    sink = Sink()
    async with Streaming(sink, server.url) as streams:
        await until(lambda: "full" in sink.calls)
        streams.set_gateways({})
        await until(lambda: "disconnected" in sink.calls)
    assert sink.calls.count("connected") == 1


# What agents say about code that does not load


def pod(**more: Any) -> PodFacts:
    facts: dict[str, Any] = {
        "namespace": "default",
        "name": "p",
        "uid": "u1",
        "function": "hello",
        "revision": "r",
        "ip": "127.0.0.1",
        "running": True,
        "ready": False,
        "terminating": False,
        "protocol": "lambda",
        "deletion_cost": 0,
        "restarts": 0,
        "problem": None,
    }
    return PodFacts(**{**facts, **more})


@pytest.fixture
async def probes(server: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[InitProbes, list[str]]]:
    monkeypatch.setattr("kappa_operator.probes.FIRST_DELAY", 0.01)
    news: list[str] = []
    probes = InitProbes(news.append, port=server.port)
    task = asyncio.create_task(probes.run())
    await asyncio.sleep(0)
    yield probes, news
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


FAILED = {"state": "init_failed", "errorType": "Runtime.ImportModuleError", "errorMessage": "No module named 'x'"}


async def test_a_web_server_that_does_not_listen_is_reported(
    probes: tuple[InitProbes, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kappa_operator.probes.LISTEN_SECONDS", 0.01)
    asker, news = probes
    assert asker.failures("default/web", [pod(protocol="http", port=9999)]) == {}
    await until(lambda: news == ["default/web"])
    problem = asker.failures("default/web", [pod(protocol="http", port=9999)])["u1"]
    assert problem.reason == Reason.NOT_LISTENING
    assert "port 9999" in problem.message
    assert asker.failures("default/web", [pod(protocol="http", port=9999, ready=True)]) == {}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("Runtime.ImportModuleError", Reason.INIT_FAILED), ("Kappa.CodeUnreadable", Reason.CODE_UNREADABLE)],
)
async def test_why_code_does_not_load_is_asked_once_and_kept(
    server: ScriptedServer, probes: tuple[InitProbes, list[str]], kind: str, reason: Reason
) -> None:
    asker, news = probes
    server.answers((503, {**FAILED, "errorType": kind}))
    assert asker.failures("default/hello", [pod()]) == {}
    await until(lambda: news == ["default/hello"])
    for _ in range(3):
        problem = asker.failures("default/hello", [pod()])["u1"]
    assert problem.reason == reason
    assert "No module named 'x'" in problem.message
    assert len(server.requests) == 1
    assert asker.failures("default/hello", [pod(ready=True)]) == {}


async def test_an_agent_that_does_not_know_yet_or_makes_no_sense_is_asked_again(
    server: ScriptedServer, probes: tuple[InitProbes, list[str]]
) -> None:
    asker, news = probes
    server.answers((503, {"state": "initializing"}), (503, ["?"]), (503, FAILED))
    asker.failures("default/hello", [pod()])
    await until(lambda: news)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "doubtless", [{"ready": True}, {"running": False}, {"ip": ""}, {"terminating": True}, {"protocol": "http"}]
)
async def test_who_has_no_agent_to_ask_or_no_need_is_not_asked(
    server: ScriptedServer, probes: tuple[InitProbes, list[str]], doubtless: dict[str, Any]
) -> None:
    asker, _ = probes
    server.answers((503, FAILED))
    assert asker.failures("default/hello", [pod(**doubtless)]) == {}
    await asyncio.sleep(0.05)
    assert server.requests == []


async def test_nobody_is_asked_after_the_function_is_gone(
    server: ScriptedServer, probes: tuple[InitProbes, list[str]]
) -> None:
    asker, news = probes
    server.answers((503, FAILED))
    asker.failures("default/hello", [pod()])
    asker.forget("default/hello")
    await asyncio.sleep(0.05)
    assert (server.requests, news) == ([], [])
