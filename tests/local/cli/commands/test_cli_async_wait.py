"""`kappa async get --wait`, while the gateway that it asks is replaced."""

import json
from pathlib import Path
from typing import Any

from kappa_command import spawn_command
from kappa_local import lasting_port

JOB = """
import os, time
def handler(event, context):
    while not os.path.exists(event["until"]):
        time.sleep(0.01)
"""


async def test_wait_goes_on_while_the_gateway_is_replaced(manifest: Any, kappa: Any, tmp_path: Path) -> None:
    manifest("job", JOB)
    go = tmp_path / "go"
    options = ("--queue", str(tmp_path / "queue.sqlite"), "--port", str(lasting_port()))
    first = await kappa(options=options)
    accepted = await first.invoke("job", {"until": str(go)}, {"X-Amz-Invocation-Type": "Event"})
    request_id = accepted.headers["x-amzn-requestid"]
    waiting = await spawn_command("async", "get", "job", request_id, "--wait", "--json", "--gateway", first.url)
    assert await first.stop() == 0
    await kappa(options=options)
    go.touch()
    ran = await waiting.ran()
    assert (ran.status, json.loads(ran.out)["status"]) == (0, "succeeded")
