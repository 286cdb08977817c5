"""`kappa local up` as a user meets it: start, what it prints, stop."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from kappa_local import HELLO, NO_SPARE, KappaLocal, returning
from processes import alive
from waiting import eventually


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


async def test_an_image_is_refused_with_the_reason(tmp_path: Path, manifest: Any, kappa: Any) -> None:
    manifest("hello", HELLO)
    (tmp_path / "image.yaml").write_text(
        "apiVersion: kappa.run/v1alpha1\nkind: Function\nmetadata: {name: boxed}\n"
        "spec: {code: {image: {ref: team/boxed:1}}}\n"
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_everything_in_seconds(manifest: Any, kappa: Any, number: signal.Signals) -> None:
    manifest("hello", HELLO)
    local = await kappa()
    await local.invoke("hello")
    children = local.children()
    assert children
    local.signal(number)
    assert await local.wait() == 0
    assert alive(children) == set()
    assert local.folders() == []


async def test_ctrl_c_does_not_wait_for_an_endless_function(manifest: Any, kappa: Any) -> None:
    manifest("endless", "def handler(event, context):\n    while True:\n        pass", timeout="1h")
    local = await kappa()
    asking = asyncio.create_task(local.invoke("endless"))
    await local.says("endless | START")
    children = local.children()
    local.signal(signal.SIGINT)
    assert await local.wait() == 0
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
    assert await local.wait() == 0
    answer = await asking
    assert answer.json["Type"] == "Service", "its process was killed before the gateway gave up on the request"


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
