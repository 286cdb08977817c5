"""`kappa async …` and `kappa invoke --async`: what they print, where, and their exit statuses."""

import json
import os
import pty
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from kappa_command import Ran, run_command, spawn_command
from kappa_local import KappaLocal, manifest_text

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB = """
import os, time
class Tired(Exception): pass
def handler(event, context):
    while "until" in event and not os.path.exists(event["until"]):
        time.sleep(0.01)
    if event.get("tired"):
        raise Tired("not today\\nnor tomorrow")
    return {"id": context.aws_request_id, "got": event}
"""


Run = Callable[..., Awaitable[Ran]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KappaLocal]:
    """One local mode for all tests here. Its functions are tried once; `idle` is never invoked."""
    path = tmp_path_factory.mktemp("functions") / "functions.yaml"
    names = ("job", "idle", "first", "failing", "purged")
    path.write_text("\n---\n".join(manifest_text(name, JOB, spec="async: {maxAttempts: 1}") for name in names))
    local = KappaLocal(path)
    yield await local.start()
    await local.stop()


@pytest.fixture
def run(local: KappaLocal) -> Run:
    """The command, against that local mode."""
    return partial(run_command, env={"KAPPA_GATEWAY": local.url})


async def submit(run: Run, name: str, event: str) -> str:
    ran = await run("invoke", name, "--async", "-d", event)
    assert ran.status == 0, ran
    return ran.out.strip()


async def test_from_the_request_id_to_the_result(run: Run) -> None:
    ran = await run("invoke", "first", "--async", "-d", '{"a": 1}')
    assert (ran.status, ran.err) == (0, "")
    request_id = ran.out.removesuffix("\n")
    assert str(uuid.UUID(request_id)) == request_id, "the id and nothing else, for scripts"
    ran = await run("async", "get", "first", request_id, "--wait", "--json")
    assert (ran.status, ran.err) == (0, "")
    said = json.loads(ran.out)
    assert (said["status"], said["attempts"]) == ("succeeded", 1)
    assert said["result"] == {"id": request_id, "got": {"a": 1}}
    ran = await run("async", "get", "default.first", request_id)
    rows = dict(line.split("   ", 1) for line in ran.out.splitlines())
    assert {label: text.strip() for label, text in rows.items()} | {"received": "", "updated": ""} == {
        "request id": request_id,
        "status": "succeeded",
        "attempts": "1",
        "received": "",
        "updated": "",
        "result": json.dumps({"id": request_id, "got": {"a": 1}}),
    }
    ran = await run("async", "ls", "first")
    head, line = ran.out.splitlines()
    assert head.split() == ["REQUEST", "ID", "STATUS", "ATTEMPTS", "AGE"]
    assert head.index("STATUS") == line.index("succeeded")
    assert line.startswith(f"{request_id}   succeeded   1 ")


async def test_a_key_makes_a_repetition_harmless_and_says_so(run: Run) -> None:
    first = await run("invoke", "job", "--async", "--idempotency-key", "order 7")
    again = await run("invoke", "job", "--async", "--idempotency-key", "order 7")
    assert (first.status, again.status) == (0, 0)
    assert first.out == again.out
    assert (first.err, again.err) == ("", "kappa: this event was stored before; nothing was added\n")


async def test_what_failed_is_shown_and_redriven(run: Run) -> None:
    request_id = await submit(run, "failing", '{"tired": true}')
    ran = await run("async", "get", "failing", request_id, "--wait")
    assert ran.status == 1, "as a script wants it"
    assert "dead letter   yes: kappa async redrive runs it again" in ran.out
    lines = ran.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error"))
    assert lines[at].split(maxsplit=1)[1] == "Tired: not today"
    assert lines[at + 1] == " " * 14 + "nor tomorrow"
    assert any("main.py" in line for line in lines[at + 2 :]), "its stack"

    ran = await run("async", "ls", "failing", "--status", "failed")
    [line] = ran.out.splitlines()[1:]
    assert line.endswith("dead letter: Tired: not today nor tomorrow")
    ran = await run("async", "redrive", "failing", request_id)
    assert (ran.status, ran.err) == (0, "")
    old, _, new = ran.out.strip().partition(" redriven as ")
    assert old == request_id
    assert (await run("async", "get", "failing", new, "--wait")).status == 1, "it fails again"
    assert f"redriven as   {new}\n" in (await run("async", "get", "failing", request_id)).out

    ran = await run("async", "redrive", "failing", request_id, new)
    assert (ran.status, ran.err) == (4, f"kappa: not in the dead letter of default/failing: {request_id}\n")
    assert ran.out.startswith(f"{new} redriven as "), "the other one was"
    newest = ran.out.split()[-1]
    assert (await run("async", "get", "failing", newest, "--wait")).status == 1
    ran = await run("async", "redrive", "failing", "--all")
    assert (ran.status, ran.out.split()[0]) == (0, newest)


async def test_purge(run: Run) -> None:
    request_id = await submit(run, "purged", '{"tired": true}')
    await run("async", "get", "purged", request_id, "--wait")
    ran = await run("async", "purge", "purged", "--dead")
    assert (ran.status, ran.err) == (2, "kappa: this drops the dead letter of default/purged for good: say --yes\n")
    ran = await run("async", "purge", "purged", "--dead", "--yes")
    assert (ran.status, ran.out) == (0, "1 dropped\n")
    ran = await run("async", "redrive", "purged", "--all")
    assert (ran.status, ran.out, ran.err) == (0, "", "kappa: the dead letter of default/purged is empty\n")
    ran = await run("async", "purge", "idle", "-y")
    assert (ran.status, ran.out) == (0, "0 dropped\n")


async def test_on_a_terminal_purge_asks(local: KappaLocal) -> None:
    for typed, status in (("n\n", 1), ("y\n", 0)):
        ours, theirs = pty.openpty()
        try:
            command = await spawn_command("async", "purge", "idle", "--gateway", local.url, stdin=theirs)
            os.write(ours, typed.encode())
            ran = await command.ran()
        finally:
            os.close(ours)
            os.close(theirs)
        assert ran.status == status
        assert "Drop everything that waits for default/idle for good? [y/N]" in ran.err
        assert ran.out == ("0 dropped\n" if status == 0 else "")


async def test_the_list_says_when_there_is_nothing(run: Run) -> None:
    ran = await run("async", "ls", "idle")
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == "kappa: default/idle has no asynchronous invocations that wait, run, or ended in the last hour\n"
    ran = await run("async", "ls", "idle", "--status", "running")
    assert ran.err == "kappa: default/idle has no asynchronous invocations that are running\n"
    assert json.loads((await run("async", "ls", "idle", "--json")).out) == {"invocations": []}


async def test_what_runs_is_shown_as_running(run: Run, tmp_path: Path) -> None:
    go = tmp_path / "go"
    request_id = await submit(run, "job", json.dumps({"until": str(go)}))
    shown = []
    while "running" not in shown and len(shown) < 2000:
        shown.append(json.loads((await run("async", "get", "job", request_id, "--json")).out)["status"])
    assert set(shown) <= {"queued", "running"}
    assert shown[-1] == "running"
    ran = await run("async", "get", "job", request_id, "--wait", "--timeout", "100ms")
    assert (ran.status, ran.err) == (5, "kappa: it has not ended within 100ms: it is running\n")
    go.touch()
    assert (await run("async", "get", "job", request_id, "--wait")).status == 0


async def test_each_way_to_fail_has_its_status_and_one_line(run: Run) -> None:
    unknown = str(uuid.uuid4())
    cases = [
        (("async", "ls", "nope"), 4, "there is no Function 'nope'"),
        (("async", "ls", "job", "-n", "elsewhere"), 4, "namespace 'elsewhere'"),
        (("async", "ls", "job:prod"), 4, "no version or alias"),
        (("async", "ls", "Job_1"), 2, "is not a function name"),
        (("async", "get", "job", unknown), 4, f"no asynchronous invocation '{unknown}' of default/job is known"),
        (("async", "get", "job", "../../x"), 2, "'../../x' is not a request id: those look like"),
        (("async", "redrive", "job"), 2, "name the request ids, or say --all"),
        (("async", "redrive", "job", unknown, "--all"), 2, "name the request ids, or say --all"),
        (("async", "redrive", "nope", "--all"), 4, "there is no Function 'nope'"),
        (("async", "ls", "job", "--gateway", "http://127.0.0.1:1"), 3, "nothing listens at"),
        (("async", "ls", "job", "--gateway", "localhost"), 2, "write it as http://127.0.0.1:8080"),
        (("invoke", "nope", "--async"), 4, "there is no Function 'nope'"),
        (("invoke", "job", "--async", "--tail"), 2, "leave one of them out"),
        (("invoke", "job", "--idempotency-key", "k"), 2, "goes with --async"),
        (("invoke", "job", "--async", "--idempotency-key", "caf\u00e9"), 2, "1 to 256 printable ASCII"),
        (("invoke", "job", "--async", "-d", "{"), 2, "--data is not JSON"),
    ]
    for args, status, says in cases:
        ran = await run(*args)
        assert ran.status == status, (args, ran)
        assert says in ran.err, (args, ran)
        assert (ran.out, ran.err.count("\n")) == ("", 1), "one line"


@pytest.mark.parametrize("command", ["ls", "get", "redrive", "purge"])
async def test_help_has_examples(command: str) -> None:
    ran = await run_command("async", command, "--help")
    assert (ran.status, ran.err) == (0, "")
    assert f"  kappa async {command} hello" in ran.out
    assert "Exit status: " in ran.out
    ran = await run_command("async", "--help")
    assert f"  {command} " in ran.out
    assert "..." not in ran.out.partition("Commands:")[2], "each in a few words"
