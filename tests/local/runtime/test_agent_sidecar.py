"""A runtime process that the agent did not start, as in a pod with `image.protocol: lambda`."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from kappa_core import wire

CODE = """
import os, sys, time
runs = 0
def handler(event, context):
    global runs
    runs += 1
    if event == "count":
        return {"id": context.aws_request_id, "run": runs}
    if event == "hang":
        time.sleep(60)
    if event == "exit":
        os._exit(1)
    return event
"""


@pytest.fixture
def sidecar(agents, tmp_path):
    """(the agent, a function that starts the other container's process)."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    agent = agents.start(runtime="", handler="", sidecar=True, runtime_api_port=port, timeout=1.0)
    (tmp_path / "main.py").write_text(CODE)
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    started = []

    def start(handler="main.handler"):
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield agent, start
    for process in started:
        process.kill()
        process.wait()


def until(agent, status):
    """The first answer with this status, of an agent that is busy while the other container starts again."""
    deadline = time.monotonic() + 10
    while (reply := agent.invoke(7)).status != status:
        assert time.monotonic() < deadline, reply.body
        time.sleep(0.01)
    return reply


def test_it_serves_the_other_container(sidecar):
    agent, start = sidecar
    assert agent.request("GET", wire.READY_PATH).json == {"state": "initializing"}
    start()
    assert agent.ready().status == 200
    assert agent.invoke(7).json == 7
    assert not agent.runtimes()


def test_an_event_outlives_its_gateway_beside_an_image_too(sidecar):
    agent, start = sidecar
    start()
    agent.ready()
    headers = {wire.REQUEST_ID: "one", wire.ATTEMPT: "1"}
    gateway = agent.connection()
    gateway.request("POST", wire.INVOKE_PATH, b'"count"', headers)
    gateway.close()
    first = agent.request("POST", wire.INVOKE_PATH, b'"count"', headers)
    assert first.json["id"] == "one"
    assert agent.request("GET", f"{wire.KEPT_PATH}one/1").body == first.body
    # another run would be the second
    assert first.json["run"] == 1
    assert agent.invoke("count").json["run"] == 2


def test_a_timeout_ends_the_other_container(sidecar):
    agent, start = sidecar
    first = start()
    assert agent.invoke("hang").json["errorType"] == "Sandbox.Timedout"
    assert first.wait(10) == -signal.SIGKILL
    refused = agent.invoke(7)
    assert (refused.status, refused.headers[wire.REFUSED]) == (429, "busy"), "another pod may be free meanwhile"
    start()
    assert until(agent, 200).json == 7


def test_the_other_container_ends_in_the_handler(sidecar):
    agent, start = sidecar
    first = start()
    agent.ready()
    reply = agent.invoke("exit")
    assert (reply.error, reply.json["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert first.wait(10) == 1
    start()
    assert until(agent, 200).json == 7


def test_the_other_container_ends_while_it_idles(sidecar):
    agent, start = sidecar
    first = start()
    assert agent.invoke(7).json == 7
    # at once: it may not have asked for more work yet
    first.kill()
    first.wait()
    refused = until(agent, 429)
    assert refused.headers[wire.REFUSED] == "busy"
    start()
    assert until(agent, 200).json == 7


def test_a_program_that_is_no_lambda_runtime(sidecar):
    agent, start = sidecar
    start("hangs.handler")
    answer = agent.request("GET", f"{wire.READY_PATH}?wait=20")
    assert (answer.status, answer.json["state"]) == (503, "init_failed")
    assert "protocol to http" in answer.json["errorMessage"]


def test_a_start_that_fails_there(sidecar):
    agent, start = sidecar
    start("broken.handler")
    assert agent.ready().json["errorType"] == "Runtime.ImportModuleError"
    start()
    assert agent.invoke(7).json == 7
    assert agent.ready().status == 200


def test_nobody_comes(sidecar):
    agent, _ = sidecar
    assert agent.invoke(7, Kappa_Deadline_Ms="1").json["errorType"] == "Sandbox.Timedout"


def test_its_container_is_held_back_until_the_agent_has_drained(sidecar):
    agent, start = sidecar
    start()
    agent.ready()
    running = agent.connection()
    running.request("POST", wire.INVOKE_PATH, b'"hang"')
    hook = agent.connection()
    hook.request("GET", wire.DRAIN_PATH)
    assert agent.invoke(1).status == 429  # the hook alone stops nothing, and the invocation runs
    agent.terminate()
    ended = running.getresponse()
    assert b"Sandbox.Timedout" in ended.read()
    held = hook.getresponse()
    assert (held.status, held.read()) == (200, b'{"state": "drained"}')
    assert agent.process.wait(10) == 0
    running.close()
    hook.close()
