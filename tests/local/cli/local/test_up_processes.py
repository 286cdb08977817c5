"""How functions run in local mode: their processes, scaling, and what those get and leave."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from kappa_local import HELLO, NO_SPARE
from processes import descendants
from waiting import eventually


async def test_the_first_request_starts_a_process_and_is_answered(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    local = await kappa(options=NO_SPARE)
    assert local.children() == set(), "nothing runs before the first request"
    answer = await local.invoke("hello", {"name": "Ada"})
    assert (answer.status, answer.json) == (200, {"hello": "Ada"})
    assert local.children()


async def test_an_idle_function_scales_to_zero_and_comes_back(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO, keep_warm="1s")
    local = await kappa(options=NO_SPARE)
    assert (await local.invoke("hello")).status == 200
    assert local.children()
    await eventually(lambda: not local.children(), "no process any more")
    assert (await local.invoke("hello")).status == 200


async def test_keep_warm_of_the_command_line_wins(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO, keep_warm="1h")
    local = await kappa(options=("--keep-warm", "500ms", *NO_SPARE))
    assert (await local.invoke("hello")).status == 200
    await eventually(lambda: not local.children(), "no process any more")


async def test_simultaneous_requests_get_processes_up_to_the_limit(tmp_path: Path, manifest: Any, kappa: Any) -> None:
    # each invocation lasts until another process runs one too
    code = f"""
import os, pathlib, time
def handler(event, context):
    folder = pathlib.Path({str(tmp_path / "pids")!r})
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return os.getpid()
"""
    (tmp_path / "pids").mkdir()
    manifest("sleepy", code, max_replicas=3, timeout="1m")
    local = await kappa()
    answers = await asyncio.gather(*(local.invoke("sleepy") for _ in range(9)))
    assert [answer.status for answer in answers] == [200] * 9
    pids = {answer.json for answer in answers}
    assert 2 <= len(pids) <= 3


async def test_min_replicas_run_before_any_request(manifest: Any, kappa: Any) -> None:
    path = manifest("hello", HELLO)
    path.write_text(path.read_text().replace("maxReplicas", "minReplicas: 1, maxReplicas"))
    local = await kappa(options=NO_SPARE)
    await eventually(local.children, "its process")


async def test_a_process_that_cannot_start_ends_in_an_answer_that_says_why(
    tmp_path: Path, manifest: Any, kappa: Any
) -> None:
    path = manifest("hello", HELLO)
    path.write_text(
        path.read_text().replace("spec:", "spec:\n  envFrom: [{configMapRef: {name: odd}}]")
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\n"
        + f"data: {{BIG: {'x' * 200_000}}}\n"  # Linux takes 128 KiB in one variable
    )
    local = await kappa()
    answer = await local.invoke("hello")
    assert answer.status == 502
    assert "could not be started" in answer.body.decode()
    manifest("hello", HELLO)
    await local.says("hello: changed")
    assert (await local.invoke("hello")).status == 200


async def test_a_killed_process_is_started_again(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    local = await kappa(options=NO_SPARE)
    assert (await local.invoke("hello")).status == 200
    os.kill(min(local.children()), signal.SIGKILL)  # the agent, which started the other one
    await local.says("was killed by signal 9")
    assert (await local.invoke("hello")).status == 200


async def test_a_program_that_a_function_left_behind_holds_nothing_up(manifest: Any, kappa: Any) -> None:
    code = """
import subprocess
def handler(event, context):
    return subprocess.Popen(["sleep", "300"], start_new_session=True).pid
"""
    manifest("leaver", code, keep_warm="500ms")
    local = await kappa(options=NO_SPARE)
    left = (await local.invoke("leaver")).json
    try:
        await eventually(
            lambda: not [p for p in descendants(local.pid) if p != left],
            "the agent's end though its output is held open",
        )
        assert (await local.invoke("leaver")).status == 200
        assert await local.stop() == 0
    finally:
        os.kill(left, signal.SIGKILL)
