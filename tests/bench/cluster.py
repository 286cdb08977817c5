"""What the cluster benchmarks share: a few API calls, a pod watch, raw HTTP over one socket, percentiles."""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
from waiting import eventually as eventually


def percentile(values: list[float], share: float) -> float:
    """Nearest rank: of 50 values, p95 is the 48th smallest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(values: list[float], digits: int = 1) -> dict[str, float]:
    """Milliseconds, from seconds."""
    return {
        "n": len(values),
        **{f"p{round(share * 100)}": round(percentile(values, share) * 1000, digits) for share in (0.5, 0.95, 0.99)},
        "min": round(min(values) * 1000, digits),
        "max": round(max(values) * 1000, digits),
    }


class Cluster:
    """Raw JSON calls on the API server that KUBECONFIG names."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Any:
        response = await self._request(method, path, body, content_type, query or {})
        text = await response.read()
        if response.status >= 400:
            raise ApiException(status=response.status, reason=f"{method} {path}: {text[:300]!r}")
        return json.loads(text) if text.startswith((b"{", b"[")) else text.decode()

    async def _request(self, method: str, path: str, body: object, content_type: str, query: dict[str, str]) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return (await self._api.call_api(*request)).response

    async def apply(self, path: str, manifest: dict[str, Any]) -> Any:
        return await self.call(
            "PATCH",
            path,
            manifest,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": "kappa-bench", "force": "true"},
        )

    async def delete(self, path: str) -> None:
        try:
            await self.call("DELETE", path, {"propagationPolicy": "Background"})
        except ApiException as error:
            if error.status != 404:
                raise

    async def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        await self.call(
            "PATCH",
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale",
            {"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        answer = await self.call("GET", f"/api/v1/namespaces/{namespace}/pods", query={"labelSelector": selector})
        items: list[dict[str, Any]] = answer["items"]
        return items

    async def watch_pods(self, namespace: str, selector: str) -> AsyncIterator[dict[str, Any]]:
        """Pod objects as they change; starts with those that exist."""
        query = {"watch": "true", "labelSelector": selector}
        response = await self._request("GET", f"/api/v1/namespaces/{namespace}/pods", None, "application/json", query)
        try:
            while line := await response.content.readline():
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
        finally:
            response.close()

    async def working_sets(self) -> dict[tuple[str, str, str], int]:
        """(namespace, pod, container) → working set in bytes, from every kubelet's own statistics."""
        sets = {}
        for node in (await self.call("GET", "/api/v1/nodes"))["items"]:
            stats = await self.call("GET", f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")
            for pod in stats["pods"]:
                for container in pod.get("containers", []):
                    memory = container.get("memory", {}).get("workingSetBytes")
                    if memory is not None:
                        sets[pod["podRef"]["namespace"], pod["podRef"]["name"], container["name"]] = int(memory)
        return sets


@asynccontextmanager
async def connect() -> AsyncIterator[Cluster]:
    await config.load_kube_config()
    async with client.ApiClient() as api:
        yield Cluster(api)


@asynccontextmanager
async def namespace(cluster: Cluster, name: str) -> AsyncIterator[str]:
    """A namespace for this run, deleted in the end."""
    await cluster.apply(
        f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    try:
        yield name
    finally:
        await cluster.delete(f"/api/v1/namespaces/{name}")


async def post(
    host: str, port: int, path: str, body: bytes, headers: str = "", timeout: float = 60
) -> tuple[int, bytes, float]:
    """One POST on a connection of its own: status, head and body as they came, seconds to the first byte."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            start = time.perf_counter()
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n{headers}\r\n".encode() + body)
            first = await reader.read(1)
            elapsed = time.perf_counter() - start
            answer = first + await reader.read()
        finally:
            writer.close()
    return int(answer.split(b" ", 2)[1]), answer, elapsed
