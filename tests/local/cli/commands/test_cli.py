"""The command `kappa`: what it prints, where, and its exit statuses."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from kappa_command import run_command, spawn_command
from kappa_local import KappaLocal, manifest_text

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLUMSY = """
import sys
class Tired(Exception): pass
def handler(event, context):
    print("at work")
    if event.get("tired"):
        raise Tired("not today")
    return {"got": event}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KappaLocal]:
    """One local mode for all tests here: it serves `clumsy`, and `boxed`, which cannot run without a cluster."""
    path = tmp_path_factory.mktemp("functions") / "functions.yaml"
    clumsy = manifest_text("clumsy", CLUMSY)
    path.write_text(clumsy + "\n---\n" + manifest_text("boxed", CLUMSY).replace("python3.13", "go1"))
    local = KappaLocal(path)
    yield await local.start()
    await local.stop()


async def test_invoke_prints_the_answer_and_nothing_else(local: KappaLocal) -> None:
    ran = await (await spawn_command("invoke", "clumsy", "-d", '{"a": 1}', "--gateway", local.url)).ran()
    assert (ran.status, json.loads(ran.out), ran.err) == (0, {"got": {"a": 1}}, "")
    ran = await run_command("invoke", "clumsy", env={"KAPPA_GATEWAY": local.url + "/"})
    assert (ran.status, json.loads(ran.out)) == (0, {"got": {}})
    ran = await run_command("invoke", "clumsy", "-n", "default", "--tail", "--gateway", local.url)
    assert ran.status == 0
    assert "at work\n" in ran.err
    assert re.search(r"^REPORT RequestId: ", ran.err, re.MULTILINE)
    assert json.loads(ran.out) == {"got": {}}


async def test_invoke_takes_the_event_from_a_file_or_the_standard_input(local: KappaLocal, tmp_path: Path) -> None:
    (tmp_path / "event.txt").write_text('{"from": "file"}')
    ran = await run_command("invoke", "clumsy", "--file", str(tmp_path / "event.txt"), "--gateway", local.url)
    assert json.loads(ran.out) == {"got": {"from": "file"}}
    ran = await run_command("invoke", "clumsy", "--file", "-", "--gateway", local.url, stdin=b'{"from": "stdin"}')
    assert json.loads(ran.out) == {"got": {"from": "stdin"}}


async def test_a_functions_error_goes_to_stderr_with_status_1(local: KappaLocal) -> None:
    ran = await run_command("invoke", "clumsy", "-d", '{"tired": true}', "--gateway", local.url)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("clumsy failed: Tired: not today\n")
    assert "main.py" in ran.err, "its stack"


async def test_each_way_to_fail_has_its_status_and_one_line(local: KappaLocal, tmp_path: Path) -> None:
    cases = [
        (("nope", "--gateway", local.url), 4, "there is no Function 'nope'"),
        (("clumsy", "-n", "elsewhere", "--gateway", local.url), 4, "elsewhere"),
        (("boxed", "--gateway", local.url), 5, "local mode runs Python functions"),
        (("clumsy", "--gateway", "http://127.0.0.1:1"), 3, "nothing listens at http://127.0.0.1:1"),
        (("clumsy", "--gateway", "http://no.such.host.invalid"), 3, "cannot be reached"),
        (("clumsy", "--gateway", "localhost"), 2, "write it as http://127.0.0.1:8080"),
        (("clumsy", "-d", "{name: Ada}", "--gateway", local.url), 2, "--data is not JSON"),
        (("clumsy", "-d", "{}", "--file", "x", "--gateway", local.url), 2, "not with both"),
        (("clumsy", "--file", str(tmp_path / "no"), "--gateway", local.url), 2, "cannot be read"),
    ]
    runs = [await run_command("invoke", *args) for args, _, _ in cases]
    for (args, status, says), ran in zip(cases, runs, strict=True):
        assert ran.status == status, (args, ran)
        assert says in ran.err, (args, ran)
        assert ran.out == ""
        assert ran.err.count("\n") == 1, "one line"


@pytest.mark.parametrize(
    "args", ["--help", "-h", "local --help", "local up --help", "invoke --help", "async --help", "version --help"]
)
async def test_help_is_everywhere(args: str) -> None:
    ran = await run_command(*args.split())
    assert ran.status == 0
    assert ran.out.startswith("Usage: kappa")
    assert ran.err == ""


async def test_wrong_arguments_are_status_2_with_a_hint() -> None:
    ran = await run_command("local", "up", "x", "--keep-warm", "soon")
    assert ran.status == 2
    assert "'soon' is not a duration: write a number and a unit" in ran.err


async def test_version() -> None:
    ran = await run_command("version")
    assert re.fullmatch(r"kappa \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+\)\n", ran.out)


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    ran = await (await spawn_command("version", env={"PYTHONPATH": str(tmp_path)})).ran()
    assert ran.status == 1
    assert ran.err == "kappa needs the package typer, which is not installed: pip install 'kappa-functions[local]'\n"
