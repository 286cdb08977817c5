"""What a change of the files does while local mode runs."""

import asyncio
from pathlib import Path
from typing import Any

from kappa_local import HELLO, NO_SPARE, returning
from waiting import eventually


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
    await eventually(lambda: local.invoke_now("hello").status == 200, "hello")


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
        lambda: local.invoke_now("hello").json == {"hello": "world"},
        "the mended code",
    )


async def test_an_edit_that_breaks_the_code_shows_at_once(manifest: Any, kappa: Any) -> None:
    """What was saved is what is seen: no process of the old code goes on answering in its place."""
    manifest("hello", HELLO)
    local = await kappa()
    assert (await local.invoke("hello")).json == {"hello": "world"}
    manifest("hello", "import nonsense_that_is_not_there\n" + HELLO)
    await eventually(
        lambda: local.invoke_now("hello").json.get("errorType") == "Runtime.ImportModuleError", "the new code's error"
    )
    assert (await local.invoke("hello")).status == 200, "an error of the function, as in Lambda"


async def test_many_saves_in_a_row_leave_the_last_one_and_few_processes(manifest: Any, kappa: Any) -> None:
    manifest("hello", returning(0))
    local = await kappa(options=NO_SPARE)
    assert (await local.invoke("hello")).json == 0
    for value in range(1, 11):
        manifest("hello", returning(value))
        await asyncio.sleep(0.05)
    await eventually(lambda: local.invoke_now("hello").json == 10, "the last one")
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
    await eventually(lambda: local.invoke_now("shop").json == 4, "the new price")


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
    await eventually(lambda: local.invoke_now("alone").json == 2, "the code of the folder")
    for value in (3, 4):  # twice: a new file in the place of the old one is another file to the system
        (tmp_path / "fresh").write_text(f"{text}---\n{settings(value)}")
        (tmp_path / "fresh").replace(path)
        await eventually(lambda value=value: local.invoke_now("alone").json == value, f"the manifest's {value}")


def settings(value: int) -> str:
    code = f"def handler(event, context): return {value}"
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: code}}\ndata: {{main.py: '{code}'}}\n"
