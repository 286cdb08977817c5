"""The agent where what Linux alone has is missing, as on macOS."""

import os
import signal
import subprocess
import sys
import zipfile
from io import BytesIO

import other_system
import pytest
from agents import Agents

from kappa_core import wire

CODE = """
import os, time

def handler(event, context):
    print("got", event)
    if event == "raise":
        raise ValueError("no")
    if event == "exit":
        os._exit(3)
    if event == "sleep":
        time.sleep(60)
    if event == "big":
        print("x" * 3_000_000)
        return "y" * 3_000_000
    return [event, context.aws_request_id]
"""


@pytest.fixture(
    params=[("SelectSelector", other_system.WITHOUT_NATIVE_CLIENT), ("SelectSelector", ""), ("PollSelector", "")],
    ids=["as on macOS", "select", "poll"],
)
def agents(request, tmp_path):
    selector, more = request.param
    python = other_system.python(tmp_path, other_system.PORTABLE, more, selector=selector)
    running = Agents(tmp_path, (python, "-m", "kappa_runtime"))
    yield running
    running.stop()


def test_a_functions_whole_life(agents, wait_until, is_alive):
    agent = agents.start(CODE, timeout=1.5, concurrency=2)
    assert agent.ready().status == 200
    first = agent.invoke("a", Kappa_Request_Id="r-1", X_Amz_Log_Type="Tail")
    assert first.json == ["a", "r-1"]
    assert "got a" in first.log
    assert agent.invoke("raise").json["errorType"] == "ValueError"
    assert agent.invoke("exit").json["errorType"] == "Runtime.ExitError"
    assert len(agent.invoke("big").json) == 3_000_000
    connection = agent.connection()
    connection.request("POST", wire.INVOKE_PATH, b'"sleep"')
    wait_until(lambda: "got sleep" in agent.log, "it runs")
    assert agent.invoke("b").json[0] == "b", "in a second runtime process"
    assert b"Sandbox.Timedout" in connection.getresponse().read()
    connection.close()
    assert agent.invoke("c").json[0] == "c"
    runtimes = agent.runtimes()
    assert agent.stop() == 0
    assert not any(is_alive(pid) for pid in runtimes)


def test_a_pool_pod_that_gets_its_function(agents, wait_until):
    pooled = agents.start_pool()
    (waiting,) = pooled.runtimes()
    os.kill(waiting, signal.SIGKILL)
    wait_until(lambda: "it is started again" in pooled.log, "its death is noticed")
    wait_until(lambda: pooled.ready().json == {"state": "pool"}, "another one waits")
    assert pooled.specialize(CODE, "a", headers={"Kappa-Request-Id": "r-1"}).json == ["a", "r-1"]
    assert pooled.specialize(CODE, "b").status == 409
    assert pooled.invoke("exit").json["errorType"] == "Runtime.ExitError"
    assert pooled.invoke("c").json[0] == "c"
    assert pooled.stop() == 0


def test_an_archive_is_fetched_in_a_process_that_holds_nothing_of_the_agent(agents, tmp_path):
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("main.py", CODE)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "code.zip").write_bytes(content.getvalue())
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().split()[5].decode()
        url = f"http://127.0.0.1:{port}/code.zip"
        pooled = agents.start_pool()
        assert pooled.specialize("", "a", code_inline="", code_archive_url=url).json[0] == "a"
    finally:
        server.kill()
        server.communicate()


def test_the_agent_ends_with_the_process_that_started_it(agents, wait_until, is_alive):
    agent = agents.start(CODE)
    agent.ready()
    (runtime,) = agent.runtimes()
    agent.process.kill()
    agent.process.wait()
    wait_until(lambda: not is_alive(runtime), "an idle runtime process finds its Runtime API gone")


def test_without_the_kernels_help_the_agent_looks_whether_its_parent_has_ended():
    script = """
import os, sys
sys.platform = "darwin"
from kappa_runtime import platform
from kappa_runtime.io.loop import EventLoop
platform._PARENT_INTERVAL = 0.01
parent = os.getpid()
read_end, write_end = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        loop = EventLoop()
        platform.watch_parent(os.getppid(), loop.call_later)
        os.write(write_end, b"x")
        loop.run()
    os.read(read_end, 1)
    os._exit(0)
os.close(write_end)
os.wait()
print(os.read(read_end, 1))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "b''\n", "the grandchild has ended, and the pipe with it"
