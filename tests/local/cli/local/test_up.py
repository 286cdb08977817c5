"""Local mode as a user meets it: start, invoke, edit, break, stop."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from kappa_local import KappaLocal, alive, descendants
from waiting import eventually

NO_SPARE = ("--spare", "0")
"""Processes that are counted are then the functions' own."""
HELLO = 'def handler(event, context):\n    return {"hello": event.get("name", "world")}'


def returning(value: object) -> str:
    return f"def handler(event, context):\n    return {value!r}"


async def test_the_first_request_starts_a_process_and_is_answered(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    local = await kappa(options=NO_SPARE)
    assert local.children() == set(), "nothing runs before the first request"
    answer = await local.invoke("hello", {"name": "Ada"})
    assert (answer.status, answer.json) == (200, {"hello": "Ada"})
    assert local.children()


async def test_the_banner_says_where_and_how(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    local = await kappa()
    assert f"{local.url}/fn/default/hello" in local.output
    assert f'curl {local.url}/2015-03-31/functions/hello/invocations -d \'{{"name": "Ada"}}\'' in local.output
    assert "kappa invoke hello" in local.output


async def test_what_a_function_prints_goes_to_the_terminal_with_its_name(manifest: Any, kappa: Any) -> None:
    manifest("talker", 'def handler(event, context):\n    print("one\\ntwo")\n    return 1')
    local = await kappa()
    await local.invoke("talker")
    await local.says("talker | one\ntalker | two\n")
    await local.says("talker | REPORT RequestId:")


async def test_functions_of_other_namespaces_are_named_with_them(tmp_path: Path, manifest: Any, kappa: Any) -> None:
    path = manifest("hello", returning("there"))
    path.write_text(path.read_text().replace("{name: hello}", "{name: hello, namespace: team-a}"))
    local = await kappa()
    assert (await local.invoke("team-a.hello")).json == "there"
    assert (await local.invoke("hello")).status == 404
    await local.says("team-a.hello | START")


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


async def test_simultaneous_requests_get_processes_up_to_the_limit(manifest: Any, kappa: Any) -> None:
    code = "import os, time\ndef handler(event, context):\n    time.sleep(0.5)\n    return os.getpid()"
    manifest("sleepy", code, max_replicas=3)
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


async def test_an_edit_is_served_without_a_failed_request(manifest: Any, kappa: Any) -> None:
    manifest("hello", "import time\n" + returning(0).replace("return", "time.sleep(0.02)\n    return"), max_replicas=2)
    local = await kappa()
    assert (await local.invoke("hello")).json == 0
    statuses: list[int] = []
    values: list[int] = []
    stop = asyncio.Event()

    async def keep_asking() -> None:
        while not stop.is_set():
            answer = await local.invoke("hello")
            statuses.append(answer.status)
            values.append(answer.json)

    asking = [asyncio.create_task(keep_asking()) for _ in range(2)]
    for value in (1, 2, 3):
        manifest(
            "hello",
            "import time\n" + returning(value).replace("return", "time.sleep(0.02)\n    return"),
            max_replicas=2,
        )
        await eventually(lambda value=value: values[-2:] == [value, value], f"the answer {value}")
    stop.set()
    await asyncio.gather(*asking)
    assert set(statuses) == {200}
    assert values == sorted(values) or set(values) == {0, 1, 2, 3}


async def test_old_processes_finish_what_they_have(manifest: Any, kappa: Any) -> None:
    manifest("sleepy", "import time\n" + returning("old").replace("return", "time.sleep(2)\n    return"))
    local = await kappa(options=NO_SPARE)
    running = asyncio.create_task(local.invoke("sleepy"))
    await local.says("sleepy | START")
    manifest("sleepy", returning("new"))
    await eventually(lambda: "sleepy: changed" in local.output, "the change")
    assert (await running).json == "old"
    await eventually(lambda: len(local.children()) <= 2, "the old process's end")
    assert (await local.invoke("sleepy")).json == "new"


async def test_a_change_of_scaling_alone_replaces_no_process(manifest: Any, kappa: Any) -> None:
    manifest("hello", "import os\ndef handler(event, context):\n    return os.getpid()")
    local = await kappa()
    before = (await local.invoke("hello")).json
    manifest("hello", "import os\ndef handler(event, context):\n    return os.getpid()", max_replicas=3)
    await local.says("hello: changed")
    assert (await local.invoke("hello")).json == before


async def test_a_manifest_that_appears_is_served_and_one_that_goes_is_not(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    local = await kappa(options=NO_SPARE)
    second = manifest("second", returning(2))
    await local.says("second: added")
    assert (await local.invoke("second")).json == 2
    second.unlink()
    await local.says("second: removed")
    assert (await local.invoke("second")).status == 404
    assert (await local.invoke("hello")).status == 200
    await eventually(lambda: len(local.children()) == 2, "the second one's end")


async def test_a_broken_manifest_is_explained_served_as_failed_and_mended(manifest: Any, kappa: Any) -> None:
    manifest("good", returning("good"))
    path = manifest("hello", HELLO)
    local = await kappa()
    assert (await local.invoke("hello")).status == 200
    sound = path.read_text()
    path.write_text(sound.replace("timeout: 10s", "timeout: soon"))
    await local.says(f"{path}:8: spec.timeout: 'soon' is not valid here, such as 30s or 500ms")
    answer = await local.invoke("hello")
    assert answer.status == 502
    assert "spec.timeout" in answer.body.decode()
    assert (await local.invoke("good")).json == "good"
    path.write_text("kind: [")
    await local.says(f"{path}:1: this is not YAML")
    answer = await local.invoke("hello")
    assert answer.status == 502
    assert "this is not YAML" in answer.body.decode()
    path.write_text(sound)
    await eventually(
        lambda: local.request_now("POST", "/2015-03-31/functions/hello/invocations", "{}").status == 200, "hello"
    )


async def test_a_file_that_was_broken_from_the_start_is_mended_while_it_runs(
    tmp_path: Path, manifest: Any, kappa: Any
) -> None:
    path = manifest("hello", HELLO)
    sound = path.read_text()
    path.write_text(sound.replace("inline:", "inlin:"))
    local = await kappa()
    assert "did you mean inline?" in local.output
    assert (await local.invoke("hello")).status == 502
    path.write_text(sound)
    await local.says("hello: changed")
    assert (await local.invoke("hello")).status == 200


async def test_broken_code_gives_lambdas_error_and_an_edit_mends_it(manifest: Any, kappa: Any) -> None:
    manifest("hello", "import nonsense_that_is_not_there\n" + HELLO)
    local = await kappa()
    answer = await local.invoke("hello")
    assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
    assert answer.json["errorType"] == "Runtime.ImportModuleError"
    manifest("hello", HELLO)
    await local.says("hello: changed")
    await eventually(
        lambda: local.request_now("POST", "/2015-03-31/functions/hello/invocations", "{}").json == {"hello": "world"},
        "the mended code",
    )


async def test_an_edit_that_breaks_the_code_shows_at_once(manifest: Any, kappa: Any) -> None:
    """What was saved is what is seen: no process of the old code goes on answering in its place."""
    manifest("hello", HELLO)
    local = await kappa()
    assert (await local.invoke("hello")).json == {"hello": "world"}
    manifest("hello", "import nonsense_that_is_not_there\n" + HELLO)
    await eventually(
        lambda: invoke_now(local, "hello").get("errorType") == "Runtime.ImportModuleError", "the new code's error"
    )
    assert (await local.invoke("hello")).status == 200, "an error of the function, as in Lambda"


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


async def test_a_flood_of_output_holds_nothing_up(manifest: Any, kappa: Any) -> None:
    code = "def handler(event, context):\n    for _ in range(200):\n        print('x' * 100_000)\n    return 'done'"
    manifest("flood", code, timeout="30s")
    local = await kappa()
    assert (await local.invoke("flood")).json == "done"
    assert (await local.invoke("flood")).json == "done"


async def test_many_saves_in_a_row_leave_the_last_one_and_few_processes(manifest: Any, kappa: Any) -> None:
    manifest("hello", returning(0))
    local = await kappa(options=NO_SPARE)
    assert (await local.invoke("hello")).json == 0
    for value in range(1, 11):
        manifest("hello", returning(value))
        await asyncio.sleep(0.05)
    await eventually(lambda: invoke_now(local, "hello") == 10, "the last one")
    await eventually(lambda: len(local.children()) == 2, "one agent and its runtime process")


async def test_a_folder_that_disappears_is_said_and_its_functions_stay(
    tmp_path: Path, manifest: Any, kappa: Any
) -> None:
    manifest("hello", HELLO)
    folder = tmp_path / "app"
    folder.mkdir()
    (tmp_path / "hello.yaml").rename(folder / "hello.yaml")
    local = await kappa(folder)
    folder.rename(tmp_path / "elsewhere")
    await local.says(f"{folder} does not exist")
    assert (await local.invoke("hello")).status == 200


async def test_an_image_is_refused_with_the_reason(tmp_path: Path, manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    (tmp_path / "image.yaml").write_text(
        "apiVersion: kappa.run/v1alpha1\nkind: Function\nmetadata: {name: boxed}\nspec: {code: {image: {ref: team/boxed:1}}}\n"
    )
    local = await kappa()
    await local.says(
        "boxed cannot run: code.image (team/boxed:1) is a container image, and those run in a cluster only"
    )
    answer = await local.invoke("boxed")
    assert answer.status == 502
    assert "in a cluster only" in answer.body.decode()


async def test_another_python_is_said_once(manifest: Any, kappa: Any) -> None:
    path = manifest("hello", HELLO)
    path.write_text(path.read_text().replace("python3.13", "python3.8"))
    local = await kappa()
    assert local.output.count("hello names Python 3.8 and runs on") == 1
    assert (await local.invoke("hello")).status == 200


async def test_code_in_a_folder_beside_the_manifest(tmp_path: Path, kappa: Any) -> None:
    code = tmp_path / "shop-code"
    code.mkdir()
    (code / "main.py").write_text("import prices\n\ndef handler(event, context):\n    return prices.of('tea')\n")
    (code / "prices.py").write_text("def of(name):\n    return 3\n")
    (tmp_path / "shop.yaml").write_text(
        "apiVersion: kappa.run/v1alpha1\nkind: Function\nmetadata: {name: shop}\n"
        "spec: {runtime: python3, handler: main.handler, code: {configMap: {name: shop-code}}}\n"
    )
    local = await kappa()
    assert (await local.invoke("shop")).json == 3
    (code / "prices.py").write_text("def of(name):\n    return 4\n")
    await local.says("shop: changed")
    await eventually(
        lambda: local.request_now("POST", "/2015-03-31/functions/shop/invocations", "{}").json == 4, "the new price"
    )


async def test_a_manifest_that_was_named_itself_is_watched_with_its_code(tmp_path: Path, kappa: Any) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text(returning(1))
    text = (
        "apiVersion: kappa.run/v1alpha1\nkind: Function\nmetadata: {name: alone}\n"
        "spec: {runtime: python3, handler: main.handler, code: {configMap: {name: code}}}\n"
    )
    path = tmp_path / "alone.yaml"
    path.write_text(text)
    (tmp_path / "another.yaml").write_text(text.replace("alone", "another"))
    local = await kappa(path)
    assert (await local.invoke("alone")).json == 1
    assert (await local.invoke("another")).status == 404
    (tmp_path / "code" / "main.py").write_text(returning(2))
    await local.says("alone: changed")
    await eventually(lambda: invoke_now(local, "alone") == 2, "the code of the folder")
    for value in (3, 4):  # twice: a new file in the place of the old one is another file to the system
        (tmp_path / "fresh").write_text(f"{text}---\n{settings(value)}")
        (tmp_path / "fresh").replace(path)
        await eventually(lambda value=value: invoke_now(local, "alone") == value, f"the manifest's {value}")


def settings(value: int) -> str:
    code = f"def handler(event, context): return {value}"
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: code}}\ndata: {{main.py: '{code}'}}\n"


def invoke_now(local: KappaLocal, name: str) -> Any:
    return local.request_now("POST", f"/2015-03-31/functions/{name}/invocations", "{}").json


async def test_a_killed_process_is_started_again(manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    local = await kappa(options=NO_SPARE)
    assert (await local.invoke("hello")).status == 200
    os.kill(min(local.children()), signal.SIGKILL)  # the agent, which started the other one
    await local.says("was killed by signal 9")
    assert (await local.invoke("hello")).status == 200


async def test_what_the_shell_has_is_not_what_a_function_gets(manifest: Any, kappa: Any) -> None:
    manifest("env", "import os\ndef handler(event, context):\n    return dict(os.environ)")
    local = await kappa(env={"MY_SECRET": "x", "AWS_ACCESS_KEY_ID": "key", "LC_ALL": "C.UTF-8"})
    env = (await local.invoke("env")).json
    assert "MY_SECRET" not in env
    assert not [name for name in env if name.startswith("KAPPA_")]
    assert (env["AWS_ACCESS_KEY_ID"], env["LC_ALL"]) == ("key", "C.UTF-8")
    assert env["AWS_LAMBDA_FUNCTION_NAME"] == "env"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_everything_in_seconds(manifest: Any, kappa: Any, number: signal.Signals) -> None:
    manifest("hello", HELLO)
    local = await kappa()
    await local.invoke("hello")
    children = local.children()
    assert children
    local.signal(number)
    assert await local.wait(within=8) == 0
    assert alive(children) == set()
    assert local.folders() == []


async def test_ctrl_c_does_not_wait_for_an_endless_function(manifest: Any, kappa: Any) -> None:
    manifest("endless", "def handler(event, context):\n    while True:\n        pass", timeout="1h")
    local = await kappa()
    asking = asyncio.create_task(local.invoke("endless"))
    await local.says("endless | START")
    children = local.children()
    local.signal(signal.SIGINT)
    assert await local.wait(within=12) == 0
    assert alive(children) == set()
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_second_ctrl_c_stops_at_once(manifest: Any, kappa: Any) -> None:
    manifest("endless", "def handler(event, context):\n    while True:\n        pass", timeout="1h")
    local = await kappa()
    asking = asyncio.create_task(local.invoke("endless"))
    await local.says("endless | START")
    local.signal(signal.SIGINT)
    await local.says("press Ctrl-C again")
    local.signal(signal.SIGINT)
    assert await local.wait(within=4) == 0
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_gateway_that_is_killed_leaves_no_child_and_its_folder_is_removed_later(
    manifest: Any, kappa: Any
) -> None:
    manifest("hello", HELLO)
    local = await kappa(options=NO_SPARE)
    await local.invoke("hello")
    children = local.children()
    assert len(children) == 2, "an agent and its runtime process"
    local.signal(signal.SIGKILL)
    await eventually(lambda: not alive(children), "every child's end")
    assert local.folders(), "nobody was left to remove it"
    await local.wait()
    again = KappaLocal(*local.paths, options=NO_SPARE)
    again.env["TMPDIR"] = str(local.temporary)
    try:
        await again.start()
        await again.invoke("hello")
        assert len(local.folders()) == 1, "its own alone"
    finally:
        await again.stop()


async def test_a_taken_port_is_said_with_the_way_out(manifest: Any) -> None:
    path = manifest("hello", HELLO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        local = KappaLocal(path, options=("--port", str(port)))
        await local.spawn()
        assert await local.wait() == 1
    assert local.output == (
        f"kappa: another program listens on 127.0.0.1:{port}: stop it, or take another port: "
        f"kappa local up {path} --port {port + 1}\n"
    )
    await local.stop()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "192.0.2.1"), "cannot listen on"),
        (("--host", "no.such.host.invalid"), "is not an address of this machine"),
    ],
)
async def test_an_address_that_is_not_ours_is_said(manifest: Any, options: tuple[str, ...], says: str) -> None:
    local = KappaLocal(manifest("hello", HELLO), options=options)
    await local.spawn()
    assert await local.wait() == 1
    assert says in local.output
    assert "Traceback" not in local.output
    await local.stop()


async def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    local = KappaLocal(tmp_path / "nowhere")
    await local.spawn()
    assert await local.wait() == 1
    assert local.output == f"kappa: {tmp_path}/nowhere does not exist: name a manifest, or a folder with manifests\n"
    await local.stop()


async def test_a_program_that_a_function_left_behind_holds_nothing_up(manifest: Any, kappa: Any) -> None:
    code = "import subprocess\ndef handler(event, context):\n    return subprocess.Popen(['sleep', '300'], start_new_session=True).pid"
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
