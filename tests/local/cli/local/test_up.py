"""`kappa local up` as a user meets it: what stops it from starting, and how it stops."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from kappa_local import HELLO, NO_SPARE, KappaLocal
from processes import alive
from waiting import eventually


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
