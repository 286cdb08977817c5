"""Run the benchmarks one after the other; each prints JSON and is kept in a folder.

Without a cluster: agent, gateway, events, local, coldstart-local. With one (KUBECONFIG, the chart installed):
coldstart, following-calls, functions.

usage: run.py [--only NAME …] [--out FOLDER]
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
WITHOUT_CLUSTER = {
    "agent": "agent.py",
    "gateway": "gateway.py",
    "events": "events.py",
    "local": "local_start.py",
    "coldstart-local": "coldstart.py --local",
}
WITH_CLUSTER = {
    "coldstart": "coldstart.py",
    "following-calls": "following_calls.py",
    "functions": "functions.py",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*WITHOUT_CLUSTER, *WITH_CLUSTER], help="these alone")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), help="where the JSON goes (default: bench-results)"
    )
    options = parser.parse_args()
    scripts = dict(WITHOUT_CLUSTER)
    if os.environ.get("KUBECONFIG"):
        scripts |= WITH_CLUSTER
    else:
        print("left out, no KUBECONFIG: " + ", ".join(WITH_CLUSTER), file=sys.stderr)
    if options.only:
        scripts = {name: {**WITHOUT_CLUSTER, **WITH_CLUSTER}[name] for name in options.only}
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    )
    failed = []
    for name, command in scripts.items():
        script, *options_of = command.split()
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, HERE / script, *options_of, "--json", options.out / f"{name}.json"], check=False
        )
        print(f"== {name}: {time.monotonic() - start:.0f} s, exit {done.returncode}", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
