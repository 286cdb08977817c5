"""1,000 Functions applied at once: seconds until every one is Ready and, after their deletion, until nothing of them is
left.

Also the footprint: with 100 of them in the cluster, the working sets of the operator, of a gateway and of an idle
function pod.

usage: functions.py [--count 1000] [--footprint-at 100] [--json FILE]
"""

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from cluster import Cluster, connect, eventually, namespace, post

MEBIBYTE = 1024 * 1024
FUNCTIONS = "/apis/kappa.run/v1alpha1/namespaces/{}/functions"


def function(ns: str, name: str, keep_warm: str = "1s") -> dict[str, Any]:
    return {
        "apiVersion": "kappa.run/v1alpha1",
        "kind": "Function",
        "metadata": {"name": name, "namespace": ns},
        "spec": {
            "runtime": "python3.13",
            "handler": "main.handler",
            "code": {"inline": f"def handler(event, context):\n    return '{name}'\n"},
            "scaling": {"keepWarm": keep_warm},
        },
    }


async def apply_all(cluster: Cluster, ns: str, names: list[str]) -> None:
    """Applies them with 16 calls under way at a time."""
    slots = asyncio.Semaphore(16)

    async def apply(name: str) -> None:
        async with slots:
            await cluster.apply(f"{FUNCTIONS.format(ns)}/{name}", function(ns, name))

    await asyncio.gather(*(apply(name) for name in names))


async def ready_count(cluster: Cluster, ns: str) -> int:
    items = (await cluster.call("GET", FUNCTIONS.format(ns)))["items"]
    return sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for item in items
        for condition in item.get("status", {}).get("conditions", [])
    )


async def all_ready(cluster: Cluster, ns: str, count: int, timeout: float) -> None:
    async def ready() -> bool:
        return await ready_count(cluster, ns) >= count

    await eventually(ready, f"the readiness of {count} Functions", within=timeout, every=1)


async def footprint(cluster: Cluster, ns: str, gateway: tuple[str, int]) -> dict[str, float]:
    """Working sets in MiB, as each kubelet counts them: the most of five looks, 5 s apart."""
    await cluster.apply(f"{FUNCTIONS.format(ns)}/warm", function(ns, "warm", keep_warm="10m"))

    async def answered() -> bool:
        status, _, _ = await post(*gateway, f"/2015-03-31/functions/{ns}.warm/invocations", b"{}")
        return status == 200

    await eventually(answered, "the answer of the warm Function", within=60, every=0.5)
    peaks: dict[str, float] = {}
    for _ in range(5):
        await asyncio.sleep(5)
        for (pod_namespace, pod, container), size in (await cluster.working_sets()).items():
            if pod_namespace == "kappa-system":
                what = container
            elif pod_namespace == ns and pod.startswith("fn-warm-"):
                what = "idle function pod"
            else:
                continue
            peaks[what] = max(peaks.get(what, 0), round(size / MEBIBYTE, 1))
    return peaks


async def run(count: int, footprint_at: int) -> dict[str, Any]:
    async with connect() as cluster:
        service = await cluster.call("GET", "/api/v1/namespaces/kappa-system/services/kappa-gateway")
        gateway = (service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"])
        async with namespace(cluster, f"bench-fn-{int(time.time()) % 100000}") as ns:
            await apply_all(cluster, ns, [f"few-{number}" for number in range(footprint_at)])
            await all_ready(cluster, ns, footprint_at, 120)
            sizes = await footprint(cluster, ns, gateway)
            print(f"with {footprint_at} Functions: {sizes} MiB", file=sys.stderr)
            start = time.perf_counter()
            await apply_all(cluster, ns, [f"many-{number}" for number in range(count)])
            applied = time.perf_counter() - start
            await all_ready(cluster, ns, count + footprint_at, 600)
            ready = time.perf_counter() - start
            print(f"{count} Functions: applied in {applied:.1f} s, all Ready after {ready:.1f} s", file=sys.stderr)
            start = time.perf_counter()
            await cluster.call("DELETE", FUNCTIONS.format(ns))

            async def nothing_left() -> bool:
                return not (
                    await cluster.call("GET", f"/apis/apps/v1/namespaces/{ns}/deployments", query={"limit": "1"})
                )["items"]

            await eventually(nothing_left, "the end of the Deployments", within=600, every=1)
            gone = time.perf_counter() - start
    return {
        "benchmark": "functions",
        "footprint": {"functions": footprint_at, "unit": "MiB", **sizes},
        "many": {
            "functions": count,
            "unit": "s",
            "applied": round(applied, 1),
            "ready": round(ready, 1),
            "gone": round(gone, 1),
        },
        "target": {
            "idle function pod": "<= 48 MiB",
            "operator": "<= 96 MiB",
            "gateway": "<= 96 MiB",
            "ready": "< 120 s",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--footprint-at", type=int, default=100)
    parser.add_argument("--json", help="also write the result here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(run(options.count, options.footprint_at)), indent=2)
    print(result)
    if options.json:
        with open(options.json, "w") as file:
            file.write(result + "\n")


if __name__ == "__main__":
    main()
