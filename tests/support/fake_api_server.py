"""An API server in memory that can misbehave: lists and watches of Functions and pods, over real HTTP."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from waiting import eventually

from kappa_core import names

FUNCTIONS, PODS = "functions", "pods"


class Watch:
    """One watch that a client has open."""

    def __init__(self, resource: str, scope: str, query: dict[str, str], response: web.StreamResponse) -> None:
        self.resource = resource
        self.scope = scope
        self.query = query
        self._response = response
        self.ended = asyncio.Event()

    async def send(self, kind: str, raw: dict[str, Any]) -> None:
        await self.write(json.dumps({"type": kind, "object": raw}).encode() + b"\n")

    async def write(self, data: bytes) -> None:
        await self._response.write(data)

    def cut(self) -> None:
        """Break the TCP connection without a goodbye."""
        transport = self._response._req.transport  # type: ignore[union-attr]
        if transport is not None:
            transport.abort()
        self.ended.set()

    def end(self) -> None:
        """End the answer in order, as at the server's own timeout."""
        self.ended.set()


class FakeApiServer:
    """Functions and pods by list and watch. Objects live in `objects`; watches send only what a test sends."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.watches: list[Watch] = []
        self.lists: list[tuple[str, str, dict[str, str]]] = []
        self.fail: Callable[[str, dict[str, str]], tuple[int, dict[str, Any], dict[str, str]] | None] = lambda r, q: (
            None
        )
        self.on_page: Callable[[], None] = lambda: None
        self.tokens: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen: the first time on a free port, then on the same one again."""
        app = web.Application()
        for prefix, resource in ((f"/apis/{names.GROUP}/{names.VERSION}", FUNCTIONS), ("/api/v1", PODS)):
            app.router.add_get(f"{prefix}/{resource}", self.answer)
            app.router.add_get(f"{prefix}/namespaces/{{namespace}}/{resource}", self.answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        for watch in self.watches:
            watch.ended.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # -- what is in the cluster

    def put(self, raw: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        resource = FUNCTIONS if raw.get("kind") == names.KIND else PODS
        self.objects[(resource, raw["metadata"]["namespace"], raw["metadata"]["name"])] = raw
        return raw

    def delete(self, raw: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        resource = FUNCTIONS if raw.get("kind") == names.KIND else PODS
        del self.objects[(resource, raw["metadata"]["namespace"], raw["metadata"]["name"])]
        return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self.version)}}

    def watching(self, resource: str) -> list[Watch]:
        return [watch for watch in self.watches if watch.resource == resource and not watch.ended.is_set()]

    async def watch(self, resource: str, after: Watch | None = None) -> Watch:
        """The open watch of a resource, once there is one that is not `after`."""
        return await eventually(
            lambda: next((watch for watch in self.watching(resource) if watch is not after), None),
            f"a watch of {resource}",
        )

    # -- HTTP

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization", ""))
        *_, resource = request.path.split("/")
        scope = request.match_info.get("namespace", "")
        query = dict(request.query)
        if (failure := self.fail(resource, query)) is not None:
            status, body, headers = failure
            return web.json_response(body, status=status, headers=headers)
        if query.get("watch"):
            return await self._watch(request, resource, scope, query)
        self.lists.append((resource, scope, query))
        found = [raw for (r, ns, _), raw in sorted(self.objects.items()) if r == resource and scope in ("", ns)]
        start, limit = int(query.get("continue") or 0), int(query["limit"])
        more = str(start + limit) if start + limit < len(found) else ""
        self.on_page()
        return web.json_response(
            {
                "items": found[start : start + limit],
                "metadata": {"resourceVersion": str(self.version), "continue": more},
            }
        )

    async def _watch(
        self, request: web.Request, resource: str, scope: str, query: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        watch = Watch(resource, scope, query, response)
        self.watches.append(watch)
        try:
            await watch.ended.wait()
        finally:
            watch.ended.set()
        return response


def write_kubeconfig(path: Path, url: str, token: str) -> None:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )


def make_function(name: str, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace, "uid": f"u-{name}", "generation": 1},
        "spec": {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x"}, **spec},
    }


def make_pod(name: str, namespace: str = "default", ip: str | None = None, **status: Any) -> dict[str, Any]:
    if ip:
        status["podIP"] = ip
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {names.LABEL_FUNCTION: "hello"},
        },
        "status": status,
    }
