"""Cold starts on the Deployment path against a bare pod of the same image, in turn in one run.

- *bare*: a Deployment of the runtime image whose command only listens (`socket.create_server`), pod template otherwise
  like a Function's; the time from the PATCH of `/scale` to the first TCP accept, dialled as the gateway dials: by IP,
  every 5 ms from the moment a watch shows it.
- *kappa*: one request to a cold Function at the gateway's Service; the time from its first byte sent to the first byte
  of its answer.

usage: coldstart.py [--runs 25] [--gateway HOST:PORT] [--json FILE]
"""

import argparse
import asyncio
import json
import re
import sys
import time
import urllib.request
from typing import Any

from cluster import Cluster, connect, namespace, post, summary, until

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
        await asyncio.sleep(0.2)  # the watch stands before the clock starts
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

    await until(none_left, timeout=90, what=f"the end of the pods {selector}", every=0.2)


def metrics(host: str) -> str:
    with urllib.request.urlopen(f"http://{host}:8080/metrics", timeout=10) as answer:
        return str(answer.read().decode())


async def phases(cluster: Cluster, ns: str) -> dict[str, float]:
    """The means of the gateways' own histograms for this run's Function, in milliseconds."""
    sums: dict[str, float] = {}
    count = 0.0
    selector = "app.kubernetes.io/name=kappa,app.kubernetes.io/component=gateway"
    for pod in await cluster.pods("kappa-system", selector):
        for line in (await asyncio.to_thread(metrics, pod["status"]["podIP"])).splitlines():
            found = re.match(r"kappa_cold_start_seconds_(sum|count){(.*)} (.*)", line)
            if not found or f'namespace="{ns}"' not in found[2]:
                continue
            phase = re.search(r'phase="(\w+)"', found[2])
            assert phase is not None
            if found[1] == "sum":
                sums[phase[1]] = sums.get(phase[1], 0.0) + float(found[3])
            elif phase[1] == "total":
                count += float(found[3])
    return {phase: round(seconds / count * 1000, 1) for phase, seconds in sums.items()} if count else {}


async def run(runs: int, gateway: str | None, ns_name: str | None) -> dict[str, Any]:
    async with connect() as cluster, namespace(cluster, ns_name or f"bench-cold-{int(time.time()) % 100000}") as ns:
        if gateway is None:
            service = await cluster.call("GET", "/api/v1/namespaces/kappa-system/services/kappa-gateway")
            gateway = f"{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
        host, _, port = gateway.partition(":")
        function = {
            "apiVersion": "kappa.run/v1alpha1",
            "kind": "Function",
            "metadata": {"name": "cold", "namespace": ns},
            "spec": {
                "runtime": "python3.13",
                "handler": "main.handler",
                "code": {"inline": "def handler(event, context):\n    return event\n"},
                "timeout": "10s",
                "scaling": {"keepWarm": "0s", "maxReplicas": 1},
            },
        }
        await cluster.apply(f"/apis/kappa.run/v1alpha1/namespaces/{ns}/functions/cold", function)

        async def deployment() -> Any:
            items = (await cluster.call("GET", f"/apis/apps/v1/namespaces/{ns}/deployments"))["items"]
            return items[0] if items else None

        child = await until(deployment, timeout=30, what="the Function's Deployment")

        async def verified() -> bool:
            found = await cluster.call("GET", f"/apis/kappa.run/v1alpha1/namespaces/{ns}/functions/cold")
            return bool(found.get("status", {}).get("verifiedRevision"))

        try:
            await until(verified, timeout=30, what="the verification of the Function's pod template", every=0.2)
        except TimeoutError:
            print("the operator does not verify templates: going on", file=sys.stderr)
        await cluster.apply(
            f"/apis/apps/v1/namespaces/{ns}/deployments/bare", bare_deployment("bare", child["spec"]["template"])
        )
        bare: list[float] = []
        kappa: list[float] = []
        await bare_start(cluster, ns, "bare")  # the image's first start reads it from disk
        for number in range(runs):
            bare.append(await bare_start(cluster, ns, "bare"))
            await gone(cluster, ns, "kappa.run/function=cold")
            status, answer, seconds = await post(
                host, int(port), f"/2015-03-31/functions/{ns}.cold/invocations", b'{"n":1}'
            )
            if status != 200 or b'{"n":1}' not in answer.replace(b" ", b""):
                raise RuntimeError(f"the cold invocation answered {answer[:500]!r}")
            kappa.append(seconds)
            print(f"{number + 1}/{runs} bare {bare[-1] * 1000:.0f} ms, kappa {seconds * 1000:.0f} ms", file=sys.stderr)
        result = {"bare": summary(bare), "kappa": summary(kappa), "mean phases": await phases(cluster, ns)}
        ratios = {share: round(result["kappa"][share] / result["bare"][share], 3) for share in ("p50", "p95")}
        return {
            "benchmark": "coldstart-deployment",
            "unit": "ms",
            **result,
            "ratio": ratios,
            "target": {"ratio p50": "<= 1.1"},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--gateway", help="HOST:PORT; default: the Service kappa-gateway in kappa-system")
    parser.add_argument("--namespace", help="made for the run and deleted in the end; default: a new name")
    parser.add_argument("--json", help="also write the result here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(run(options.runs, options.gateway, options.namespace)), indent=2)
    print(result)
    if options.json:
        with open(options.json, "w") as file:
            file.write(result + "\n")


if __name__ == "__main__":
    main()
