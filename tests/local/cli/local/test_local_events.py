"""Asynchronous invocations in local mode: the queue is a file that outlives the process."""

import signal
from pathlib import Path
from typing import Any

from kappa_local import KappaLocal

CODE = """
import os, time
def handler(event, context):
    with open(event["runs"], "a") as runs:
        runs.write(context.aws_request_id + "\\n")
    time.sleep(event.get("seconds", 0))
    return "done"
"""


async def send(local: KappaLocal, **event: Any) -> str:
    accepted = await local.invoke("hello", event, {"X-Amz-Invocation-Type": "Event"})
    return accepted.headers["x-amzn-requestid"]


async def test_events_start_processes_and_survive_a_killed_gateway(manifest: Any, kappa: Any, tmp_path: Path) -> None:
    manifest("hello", CODE)
    runs = tmp_path / "runs"
    queue = ("--queue", str(tmp_path / "queue.sqlite"))
    first = await kappa(options=queue)
    ids = [await send(first, runs=str(runs))]
    assert (await first.outcome("hello", ids[0]))["result"] == "done"
    ids += [await send(first, runs=str(runs), seconds=0.5) for _ in range(5)]
    first.signal(signal.SIGKILL)
    await first.wait()
    second = await kappa(options=queue)
    for request_id in ids:
        said = await second.outcome("hello", request_id)
        assert (said["status"], said["attempts"]) == ("succeeded", 1)
    assert set(runs.read_text().split()) == set(ids)


async def test_a_second_process_is_told_who_has_the_queue_and_what_to_do(
    manifest: Any, kappa: Any, tmp_path: Path
) -> None:
    manifest("hello", CODE)
    first = await kappa(options=("--queue", str(tmp_path / "queue.sqlite")))
    second = KappaLocal(tmp_path, options=("--queue", str(tmp_path / "queue.sqlite")))
    await second.spawn()
    try:
        assert await second.wait() == 1
        assert f"pid {first.pid}" in second.output
        assert "--queue" in second.output
    finally:
        await second.stop()
