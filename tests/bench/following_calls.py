"""The calls right after a cold start, over the same gateway and over another one: what a client sees, on a cluster.

Each run takes a Function that no pod serves (`maxReplicas: 1`) and two gateways' own pods, in turn which of them comes
first. It sends the cold call to the first gateway, then at once, each when the one before is answered: two more to the
same gateway (or to the other one), and further ones up to the hundredth. Each has a connection of its own. The Function
goes to zero between two runs.

*same*: all calls to one gateway. *other*: the cold call to one, all that follow to the other.

usage: following_calls.py [--runs 30] [--json FILE]
"""

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from coldstart import apply_function, gone, pool_is_full

from cluster import Cluster, connect, namespace, post, summary

NAME = "one-pod"
CALLS = 100
"""Of each run, the cold one included."""


async def gateways(cluster: Cluster) -> list[str]:
    """The addresses of two gateways that are ready."""
    pods = await cluster.pods("kappa-system", "app.kubernetes.io/component=gateway")
    found = [
        pod["status"]["podIP"]
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
        and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]
    if len(found) < 2:
        raise RuntimeError("this needs two gateways: helm upgrade --set gateway.replicas=2")
    return sorted(found)[:2]


async def one_run(ns: str, first: str, following: str) -> list[float]:
    """Seconds of each call."""
    target = f"/2015-03-31/functions/{ns}.{NAME}/invocations"
    took = []
    for number in range(CALLS):
        host = first if number == 0 else following
        began = time.perf_counter()
        status, answer, _ = await post(host, 8080, target, b"%d" % number)
        took.append(time.perf_counter() - began)
        if status != 200 or not answer.endswith(b"%d" % number):
            raise RuntimeError(f"call {number} over {host} answered {answer[:500]!r}")
        if number == 0 and b"kappa-cold-start: pool;" not in answer.lower():
            raise RuntimeError(f"the first call was not a cold start from the pool: {answer[:500]!r}")
    return took


async def run(runs: int, rest: float) -> dict[str, Any]:
    name = f"bench-following-{int(time.time()) % 100000}"
    async with connect() as cluster, namespace(cluster, name) as ns:
        hosts = await gateways(cluster)
        await apply_function(cluster, ns, NAME, {"scaling": {"keepWarm": "0s", "maxReplicas": 1}})
        took: dict[str, list[list[float]]] = {"same": [], "other": []}
        for number in range(runs):
            for way in took:
                await gone(cluster, ns, "kappa.run/function")
                await pool_is_full(cluster, ns)
                await asyncio.sleep(rest)
                first, second = hosts if number % 2 else reversed(hosts)
                took[way].append(await one_run(ns, first, first if way == "same" else second))
            last = {way: [round(seconds * 1000, 1) for seconds in calls[-1][:3]] for way, calls in took.items()}
            print(f"{number + 1}/{runs} {last}", file=sys.stderr)
        return {
            "benchmark": "following calls",
            "unit": "ms",
            **{
                way: {
                    "cold": summary([calls[0] for calls in runs_], digits=2),
                    "second": summary([calls[1] for calls in runs_], digits=2),
                    "third": summary([calls[2] for calls in runs_], digits=2),
                    "hundredth": summary([calls[-1] for calls in runs_], digits=2),
                    "all that follow": summary([one for calls in runs_ for one in calls[1:]], digits=2),
                }
                for way, runs_ in took.items()
            },
            "target": {"second p95": "<= 10"},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rest", type=float, default=0.5, help="seconds of rest before each run (default: 0.5)")
    parser.add_argument("--json", help="also write the result here")
    options = parser.parse_args()
    result = json.dumps(asyncio.run(run(options.runs, options.rest)), indent=2)
    print(result)
    if options.json:
        with open(options.json, "w") as file:
            file.write(result + "\n")


if __name__ == "__main__":
    main()
