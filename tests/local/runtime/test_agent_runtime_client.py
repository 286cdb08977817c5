"""Agents serve alike with awslambdaric's native module and with the one in Python, however a function starts."""

import base64
import json
import os
import signal
import sys
import threading
import zipfile
from io import BytesIO

import other_system
import pytest
from agents import Agents

CODE = """
import json, os, signal, sys, time

def stopped(number, frame):
    print("stopped by", number, flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, stopped)
print("started")

class Odd(Exception):
    pass

def handler(event, context):
    what = event.get("do")
    print("asked for", what)
    if what == "raise":
        raise Odd("ö" + "\\n" + "x" * event.get("length", 0))
    if what == "sleep":
        time.sleep(60)
    if what == "exit":
        sys.exit(3)
    if what == "big":
        return "y" * event["length"]
    if what == "client":
        import awslambdaric.lambda_runtime_client as client
        return client.runtime_client.__name__
    if what == "together":
        open(os.path.join(event["folder"], str(os.getpid())), "w").close()
        while len(os.listdir(event["folder"])) < event["count"]:
            time.sleep(0.005)
        return os.getpid()
    given = context.client_context
    return {
        "event": event, "id": context.aws_request_id, "arn": context.invoked_function_arn,
        "left": context.get_remaining_time_in_millis() > 0, "custom": given.custom if given else None,
        "trace": bool(os.environ.get("_X_AMZN_TRACE_ID")), "pid": os.getpid(),
    }
"""
NATIVE, PYTHON = "runtime", "kappa_runtime.start.http_runtime_client"


@pytest.fixture(params=[NATIVE, PYTHON], ids=["native", "python"])
def client(request):
    return request.param


@pytest.fixture
def agents(client, tmp_path):
    python = other_system.python(tmp_path, other_system.WITHOUT_NATIVE_CLIENT) if client == PYTHON else sys.executable
    running = Agents(tmp_path, (python, "-P", "-m", "kappa_runtime"))
    yield running
    running.stop()


@pytest.fixture(params=["fork", "spawn", "prepared", "prepared again"])
def start(request, agents, wait_until):
    """Starts an agent whose first runtime process has started in this way, and is the function's."""

    def agent(**config):
        if request.param.startswith("prepared"):
            pooled = agents.start_pool()
            if request.param == "prepared again":
                (waiting,) = pooled.runtimes()
                os.kill(waiting, signal.SIGKILL)
                wait_until(lambda: "it is started again" in pooled.log, "its death is noticed")
                wait_until(lambda: pooled.ready().json == {"state": "pool"}, "another one waits")
            assert pooled.specialize(CODE, {}, **config).status == 200
            return pooled
        # a Python that reads variables of its own is not forked
        return agents.start(CODE, env={"PYTHONNODEBUGRANGES": "1"} if request.param == "spawn" else {}, **config)

    return agent


def test_results_and_errors(start, client, wait_until):
    agent = start(timeout=10.0)
    assert agent.invoke({"do": "client"}).json == client
    context = base64.b64encode(json.dumps({"custom": {"k": "é"}}).encode()).decode()
    first = agent.invoke({"a": "ü"}, Kappa_Request_Id="r-1", X_Amz_Log_Type="Tail", X_Amz_Client_Context=context)
    assert first.error is None
    pid = first.json["pid"]
    assert first.json == {
        "event": {"a": "ü"}, "id": "r-1", "arn": first.json["arn"], "left": True, "custom": {"k": "é"},
        "trace": True, "pid": pid,
    }  # fmt: skip
    assert first.json["arn"].endswith(":function:hello")
    assert "asked for None\n" in first.log
    assert first.log.count("RequestId: r-1") >= 3
    failed = agent.invoke({"do": "raise", "length": 100_000}, X_Amz_Log_Type="Tail")
    assert failed.error == "Unhandled"
    assert failed.json["errorType"] == "Odd"
    assert failed.json["errorMessage"] == "ö\n" + "x" * 100_000
    assert failed.json["stackTrace"]
    assert agent.invoke({"do": "raise"}, X_Amz_Log_Type="Tail").log.count("[ERROR] Odd: ö") == 1
    assert agent.invoke({}).json["custom"] is None
    assert agent.invoke({"do": "big", "length": 5_000_000}).json == "y" * 5_000_000
    assert agent.invoke({}).json["pid"] == pid, "one process for all of them"
    assert agent.invoke({"do": "big", "length": 7_000_000}).json["errorType"] == "Function.ResponseSizeTooLarge"
    assert agent.invoke({"do": "exit"}).json["errorType"] == "Runtime.ExitError"
    assert agent.invoke({"do": "client"}).json == client, "in another process"
    assert agent.stop() == 0
    assert "stopped by 15" in agent.log


def test_a_function_that_takes_too_long(start, client):
    agent = start(timeout=1.0)
    late = agent.invoke({"do": "sleep"}, X_Amz_Log_Type="Tail")
    assert late.json["errorType"] == "Sandbox.Timedout"
    assert "asked for sleep" in late.log
    assert agent.invoke({"do": "client"}).json == client


def test_several_at_the_same_time(start, tmp_path):
    agent = start(concurrency=3)
    folder = tmp_path / "together"
    folder.mkdir()
    pids = []

    def invoke():
        pids.append(agent.invoke({"do": "together", "folder": str(folder), "count": 3}).json)

    threads = [threading.Thread(target=invoke) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 3


def test_a_function_that_cannot_be_loaded(agents):
    agent = agents.start("import nowhere")
    failed = agent.invoke({})
    assert failed.error == "Unhandled"
    assert failed.json["errorType"] == "Runtime.ImportModuleError"
    assert "nowhere" in failed.json["errorMessage"]


def test_a_default_timeout_of_the_functions_sockets_does_not_end_the_wait(agents):
    agent = agents.start(
        "import os, socket\nsocket.setdefaulttimeout(0.001)\ndef handler(event, context):\n    return os.getpid()"
    )
    first = agent.invoke({}).json
    assert agent.invoke({}).json == first
    assert agent.runtimes() == [first]


@pytest.mark.parametrize("start", ["fork", "spawn", "prepared"])
def test_a_functions_own_module_comes_before_the_standard_librarys(agents, start):
    code = "import email, http, calendar\ndef handler(event, context):\n    return [email.OWN, http.OWN, calendar.OWN]"
    files = {"email.py": "OWN = 1", "http/__init__.py": "OWN = 2", "calendar.py": "OWN = 3"}
    if start == "prepared":
        agent = agents.start_pool()
        content = BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name, text in {"main.py": code, **files}.items():
                archive.writestr(name, text)
        assert agent.specialize("", zipped=content.getvalue(), code_inline="").json == [1, 2, 3]
    else:
        agent = agents.start(code, files=files, env={"PYTHONNODEBUGRANGES": "1"} if start == "spawn" else {})
    for _ in range(3):
        assert agent.invoke({}).json == [1, 2, 3]
