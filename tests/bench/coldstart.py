"""Cold starts by both paths against a bare pod of the same image, in one run: those of the Deployment in turn with the
bare pod's, then those from the pool.

- *bare*: a Deployment of the runtime image whose command only listens (`socket.create_server`), pod template otherwise
  like a Function's; the time from the PATCH of `/scale` to the first TCP accept, dialled as the gateway dials: by IP,
  every 5 ms from the moment a watch shows it.
- *Pool*, *Deployment*: one request at the gateway's Service to a cold Function that may use a warm pool, and to one
  that may not; the time from the first byte sent to the first byte of the answer. The phases are those of the answer's
  `Kappa-Cold-Start` header.

With `--local` there is no cluster and no bare pod: `kappa local up`, see coldstart_local.py.

usage: coldstart.py [--local] [--runs 50] [--gateway HOST:PORT] [--json FILE]
"""

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import coldstart_local
from coldstart_local import phase_summary, read_header

from cluster import Cluster, connect, eventually, namespace, post, summary

LISTENER = "import socket\nserver = socket.create_server(('', 8080))\nwhile True:\n    server.accept()[0].close()\n"


def bare_deployment(name: str, template: dict[str, Any]) -> dict[str, Any]:
    """The Function's own pod template with the smallest thing that accepts a connection in it, and no probe."""
    container = dict(template["spec"]["containers"][0])
    for key in ("readinessProbe", "startupProbe", "livenessProbe", "lifecycle"):
        container.pop(key, None)
    container |= {"command": ["python3", "-c", LISTENER], "args": [], "env": []}
    spec = {**template["spec"], "containers": [container], "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"bench": name}},
            "template": {"metadata": {"labels": {"bench": name}}, "spec": spec},
        },
    }


async def accepted(host: str, port: int) -> None:
    """Returns once a TCP connection is accepted."""
    while True:
        try:
            async with asyncio.timeout(0.5):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.005)


async def bare_start(cluster: Cluster, ns: str, name: str) -> float:
    """Seconds from the PATCH to the accept of one bare pod; leaves the Deployment at zero again."""
    known: asyncio.Queue[str] = asyncio.Queue()

    async def watch() -> None:
        async for pod in cluster.watch_pods(ns, f"bench={name}"):
            if address := pod["status"].get("podIP"):
                known.put_nowait(address)

    task = asyncio.create_task(watch())
    try:
        await asyncio.sleep(0.2)  # the watch is established before the clock starts
        start = time.perf_counter()
        await cluster.scale(ns, name, 1)
        async with asyncio.timeout(60):
            await accepted(await known.get(), 8080)
        return time.perf_counter() - start
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.scale(ns, name, 0)
        await gone(cluster, ns, f"bench={name}")


async def gone(cluster: Cluster, ns: str, selector: str) -> None:
    async def none_left() -> bool:
        return not await cluster.pods(ns, selector)

    await eventually(none_left, f"the end of the pods {selector}", within=90, every=0.2)


FUNCTIONS = {
    "Pool": ("pooled", {}),
    "Deployment": ("deployed", {"podTemplate": {"annotations": {"bench": "deployment"}}}),
}
"""The label `path` → the Function whose cold starts go that way, and what makes them."""


async def apply_function(cluster: Cluster, ns: str, name: str, more: dict[str, Any]) -> None:
    spec = {
        "runtime": "python3.13",
        "handler": "main.handler",
        "code": {"inline": "def handler(event, context):\n    return event\n"},
        "timeout": "10s",
        "scaling": {"keepWarm": "0s", "maxReplicas": 4},
        **more,
    }
    metadata = {"name": name, "namespace": ns}
    manifest = {"apiVersion": "kappa.run/v1alpha1", "kind": "Function", "metadata": metadata, "spec": spec}
    await cluster.apply(f"/apis/kappa.run/v1alpha1/namespaces/{ns}/functions/{name}", manifest)


async def ready_functions(cluster: Cluster, ns: str) -> dict[str, str]:
    """The path of each Function, once the operator has said it of both and has seen their code load."""

    async def status() -> Any:
        found = {}
        for path, (name, _) in FUNCTIONS.items():
            function = await cluster.call("GET", f"/apis/kappa.run/v1alpha1/namespaces/{ns}/functions/{name}")
            known = function.get("status", {})
            if not known.get("coldStart") or (path == "Deployment" and not known.get("verifiedRevision")):
                return None
            found[path] = known["coldStart"]["path"]
        return found

    paths: dict[str, str] = await eventually(status, "the operator's word on both Functions", within=60, every=0.2)
    return paths


async def pool_is_full(cluster: Cluster, ns: str) -> None:
    async def full() -> bool:
        pods = await cluster.pods(ns, "kappa.run/pool")
        ready = [c["status"] for pod in pods for c in pod["status"].get("conditions", ()) if c["type"] == "Ready"]
        return bool(ready) and len(ready) == len(pods) and set(ready) == {"True"}

    await eventually(full, "a pool whose pods are all ready", within=120, every=0.1)


async def quiet(cluster: Cluster, ns: str, rest: float, *, pool: bool) -> None:
    """Nothing starts or ends any more, for this many seconds."""
    await gone(cluster, ns, "kappa.run/function")
    if pool:
        await pool_is_full(cluster, ns)
    await asyncio.sleep(rest)


def latest(walls: dict[str, list[float]], *paths: str) -> str:
    return ", ".join(f"{path} {walls[path][-1] * 1000:.1f} ms" for path in paths)


async def cold(host: str, port: int, ns: str, path: str) -> tuple[dict[str, float], float]:
    """The phases of one cold start that goes this way, and the seconds to its first byte."""
    name = FUNCTIONS[path][0]
    target = f"/2015-03-31/functions/{ns}.{name}/invocations"
    status, answer, seconds = await post(host, port, target, b'{"n":1}')
    if status != 200 or b'{"n":1}' not in answer.replace(b" ", b""):
        raise RuntimeError(f"the cold invocation answered {answer[:500]!r}")
    went, phases = read_header(answer)
    if went != path.lower():
        raise RuntimeError(f"{name} went by the {went}")
    return phases, seconds


async def run(runs: int, gateway: str | None, ns_name: str | None, rest: float) -> dict[str, Any]:
    async with connect() as cluster, namespace(cluster, ns_name or f"bench-cold-{int(time.time()) % 100000}") as ns:
        if gateway is None:
            service = await cluster.call("GET", "/api/v1/namespaces/kappa-system/services/kappa-gateway")
            gateway = f"{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
        host, _, port = gateway.partition(":")
        for name, more in FUNCTIONS.values():
            await apply_function(cluster, ns, name, more)
        paths = await ready_functions(cluster, ns)
        measured = [path for path in FUNCTIONS if paths[path] == path]
        if "Pool" not in measured:
            print("this installation has no pools: the Deployment's path alone", file=sys.stderr)
        child = await cluster.call("GET", f"/apis/apps/v1/namespaces/{ns}/deployments/fn-deployed")
        await cluster.apply(
            f"/apis/apps/v1/namespaces/{ns}/deployments/bare", bare_deployment("bare", child["spec"]["template"])
        )
        walls: dict[str, list[float]] = {path: [] for path in ("bare", *measured)}
        phases: dict[str, list[dict[str, float]]] = {path: [] for path in measured}

        async def start(path: str) -> None:
            await quiet(cluster, ns, rest, pool="Pool" in measured)
            if path == "bare":
                walls[path].append(await bare_start(cluster, ns, "bare"))
                return
            found, seconds = await cold(host, int(port), ns, path)
            phases[path].append(found)
            walls[path].append(seconds)
            # an adoption starts a pod, which is not to be what the next start competes with
            await eventually(
                lambda: cluster.pods(ns, "kappa.run/function"), "a pod that is the Function's", within=30, every=0.1
            )

        await bare_start(cluster, ns, "bare")  # the image's first start reads it from disk
        for number in range(runs):
            # each of the two is the first one as often as the other
            for path in ("bare", "Deployment") if number % 2 else ("Deployment", "bare"):
                await start(path)
            print(f"{number + 1}/{runs} {latest(walls, 'bare', 'Deployment')}", file=sys.stderr)
        # separately, as each start from the pool makes two more pods start: the pool's next one, and one that the
        # adoption replaces
        for number in range(runs if "Pool" in measured else 0):
            await start("Pool")
            print(f"{number + 1}/{runs} {latest(walls, 'Pool')}", file=sys.stderr)
        bare = summary(walls["bare"], digits=2)
        results: dict[str, Any] = {
            path: {"request to first byte": summary(walls[path], digits=2), "phases": phase_summary(phases[path])}
            for path in measured
        }
        deployment = results["Deployment"]["request to first byte"]
        return {
            "benchmark": "coldstart",
            "unit": "ms",
            "bare": bare,
            **results,
            "ratio of Deployment to bare": {
                share: round(deployment[share] / bare[share], 3) for share in ("p50", "p95")
            },
            "target": {"ratio p50": "<= 1.2", "Pool p50": "<= 10", "Pool p95": "<= 25"},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="without a cluster, over kappa local up")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rest", type=float, default=0.5, help="seconds of rest before each start (default: 0.5)")
    parser.add_argument("--gateway", help="HOST:PORT; default: the Service kappa-gateway in kappa-system")
    parser.add_argument("--namespace", help="made for the run and deleted in the end; default: a new name")
    parser.add_argument("--json", help="also write the result here")
    options = parser.parse_args()
    if options.local:
        measuring = coldstart_local.run(options.runs, options.rest)
    else:
        measuring = run(options.runs, options.gateway, options.namespace, options.rest)
    result = json.dumps(asyncio.run(measuring), indent=2)
    print(result)
    if options.json:
        with open(options.json, "w") as file:
            file.write(result + "\n")


if __name__ == "__main__":
    main()
