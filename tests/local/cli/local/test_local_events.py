"""Asynchronous invocations in local mode: the queue is a file that outlives the process."""

import asyncio
import json
import signal
import urllib.request

from kappa_cli.local.state_folder import queue_file

CODE = """
import os, time
def handler(event, context):
    with open(event["runs"], "a") as runs:
        runs.write(context.aws_request_id + "\\n")
    time.sleep(event.get("seconds", 0))
    return "done"
"""


def ask(local, path, body=None, headers=None):
    request = urllib.request.Request(local.url + path, data=body, headers=headers or {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers, answer.read()


async def send(local, **event):
    headers, _ = await asyncio.to_thread(
        ask,
        local,
        "/2015-03-31/functions/hello/invocations",
        json.dumps(event).encode(),
        {"X-Amz-Invocation-Type": "Event"},
    )
    return headers["x-amzn-requestid"]


async def ended(local, request_id, within=30.0):
    deadline = asyncio.get_running_loop().time() + within
    while True:
        _, body = await asyncio.to_thread(ask, local, f"/v1/namespaces/default/functions/hello/async/{request_id}")
        said = json.loads(body)
        if said["status"] in ("succeeded", "failed", "expired"):
            return said
        assert asyncio.get_running_loop().time() < deadline, said
        await asyncio.sleep(0.05)


async def test_events_start_processes_and_survive_a_killed_gateway(manifest, kappa, tmp_path):
    manifest("hello", CODE)
    runs = tmp_path / "runs"
    queue = ("--queue", str(tmp_path / "queue.sqlite"))
    first = await kappa(options=queue)
    ids = [await send(first, runs=str(runs))]
    assert (await ended(first, ids[0]))["result"] == "done"
    ids += [await send(first, runs=str(runs), seconds=0.5) for _ in range(5)]
    first.signal(signal.SIGKILL)
    await first.wait()
    second = await kappa(options=queue)
    for request_id in ids:
        said = await ended(second, request_id)
        assert (said["status"], said["attempts"]) == ("succeeded", 1)
    assert set(runs.read_text().split()) == set(ids)


async def test_a_second_process_is_told_who_has_the_queue_and_what_to_do(manifest, kappa, tmp_path):
    manifest("hello", CODE)
    first = await kappa(options=("--queue", str(tmp_path / "queue.sqlite")))
    second = type(first)(tmp_path, options=("--queue", str(tmp_path / "queue.sqlite")))
    await second.spawn()
    try:
        assert await second.wait() == 1
        assert f"pid {first.pid}" in second.output
        assert "--queue" in second.output
    finally:
        await second.stop()


def test_the_same_manifests_have_the_same_queue(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = tmp_path / "one.yaml", tmp_path / "two"
    assert queue_file([one]) == queue_file([tmp_path / "x" / ".." / "one.yaml"])
    assert queue_file([one, other]) == queue_file([other, one])
    assert queue_file([one]) != queue_file([other])
    assert queue_file([one]).parent == tmp_path / "kappa"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert queue_file([one]).is_relative_to(tmp_path.home() / ".local" / "state" / "kappa")
