"""Code that is broken in every way: Lambda's error for it, and the next invocation works."""

import re
import time
from pathlib import Path

import pytest

from kappa_core import wire

GOOD_AFTER = """
def handler(event, context):
    if event == "bad":
        {bad}
    return event
"""


def start_bad(agents, bad, **config):
    return agents.start(GOOD_AFTER.format(bad=bad.replace("\n", "\n        ")), **config)


def check_next_works(agent):
    reply = agent.invoke("good")
    assert (reply.status, reply.error, reply.json) == (200, None, "good")


@pytest.mark.parametrize(
    ("code", "handler", "error_type", "message"),
    [
        ("def handler(event, context)\n    pass\n", "main.handler", "Runtime.UserCodeSyntaxError", "expected ':'"),
        ("import nothing_of_that_name\n", "main.handler", "Runtime.ImportModuleError", "nothing_of_that_name"),
        ("x = 1\n", "main.handler", "Runtime.HandlerNotFound", "'handler' missing on module 'main'"),
        ("raise SystemExit(3)\n", "main.handler", "Runtime.ExitError", "Runtime exited with error: exit status 3"),
        ("import os\nos._exit(0)\n", "main.handler", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("import os\nos.kill(os.getpid(), 9)\n", "main.handler", "Runtime.ExitError", "signal: killed"),
        ("1 / 0\n", "main.handler", "ZeroDivisionError", "division by zero"),
    ],
)
def test_code_that_does_not_load(agents, wait_until, code, handler, error_type, message):
    agent = agents.start(code, handler=handler)
    ready = agent.ready()
    assert (ready.status, ready.json["state"], ready.json["errorType"]) == (503, "init_failed", error_type)
    assert message in ready.json["errorMessage"]
    wait_until(lambda: not agent.runtimes(), "no process is left, and none is started")
    for request_id in ("r1", "r2"):
        reply = agent.invoke(Kappa_Request_Id=request_id)
        assert (reply.status, reply.error, reply.json["errorType"]) == (200, "Unhandled", error_type)
        assert message in reply.json["errorMessage"]
        if error_type == "Runtime.ExitError":
            assert reply.json["errorMessage"].startswith(f"RequestId: {request_id} Error: Runtime exited")
    assert agent.stop() == 0


def test_code_that_loads_at_the_second_try(agents):
    flag = agents.folder / "flag"
    agent = agents.start(
        f"""
        import os
        if not os.path.exists({str(flag)!r}):
            raise RuntimeError("not yet")
        def handler(event, context):
            return event
        """
    )
    assert agent.ready().json["errorType"] == "RuntimeError"
    assert agent.invoke().json["errorMessage"] == "not yet"
    flag.touch()
    check_next_works(agent)
    assert agent.ready().status == 200


def test_an_invocation_that_came_during_the_failing_start(agents):
    agent = agents.start("import time\ntime.sleep(0.3)\nraise KeyError('gone')\n")
    reply = agent.invoke(Kappa_Request_Id="r1")
    assert (reply.error, reply.json["errorType"], reply.json["requestId"]) == ("Unhandled", "KeyError", "r1")
    assert any("main.py" in line for line in reply.json["stackTrace"])


@pytest.mark.parametrize(
    ("bad", "error_type", "message"),
    [
        ("raise ValueError('no')", "ValueError", "^no$"),
        ("return object()", "Runtime.MarshalError", "Unable to marshal response"),
        (
            "import os; os._exit(1)",
            "Runtime.ExitError",
            "^RequestId: r1 Error: Runtime exited with error: exit status 1$",
        ),
        (
            "raise SystemExit(0)",
            "Runtime.ExitError",
            "^RequestId: r1 Error: Runtime exited without providing a reason$",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            "Runtime.ExitError",
            "^RequestId: r1 Error: Runtime exited with error: signal: killed$",
        ),
        (
            "import ctypes; ctypes.string_at(0)",
            "Runtime.ExitError",
            "signal: segmentation fault$",
        ),
        ("return 'x' * 7_000_000", "Function.ResponseSizeTooLarge", r"7000002 bytes\) exceeded .*6291456 bytes\)"),
    ],
)
def test_a_handler_that_fails(agents, bad, error_type, message):
    agent = start_bad(agents, bad)
    check_next_works(agent)
    reply = agent.invoke("bad", Kappa_Request_Id="r1")
    assert (reply.status, reply.error, reply.json["errorType"]) == (200, "Unhandled", error_type)
    assert re.search(message, reply.json["errorMessage"])
    check_next_works(agent)
    assert agent.stop() == 0


def test_an_exception_has_its_stack_trace(agents):
    agent = start_bad(agents, "raise ValueError('no')")
    reply = agent.invoke("bad")
    assert reply.json["errorMessage"] == "no"
    assert "raise ValueError" in reply.json["stackTrace"][0]


@pytest.mark.parametrize("bad", ["while True: pass", "import time; time.sleep(60)", "import signal; signal.pause()"])
def test_a_handler_that_does_not_end(agents, bad, is_alive, wait_until):
    agent = start_bad(agents, bad, timeout=0.5)
    check_next_works(agent)
    (before,) = agent.runtimes()
    began = time.monotonic()
    reply = agent.invoke("bad", Kappa_Request_Id="r1", X_Amz_Log_Type="Tail")
    assert 0.5 <= time.monotonic() - began < 3
    assert reply.error == "Unhandled"
    assert reply.json["errorType"] == "Sandbox.Timedout"
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z r1 Task timed out after 0\.50 seconds", reply.json["errorMessage"]
    )
    assert "Task timed out after 0.50 seconds\nEND RequestId: r1\nREPORT" in reply.log
    assert "\tStatus: timeout\t" in reply.log
    check_next_works(agent)
    wait_until(lambda: not is_alive(before), "the one that did not end is gone")


def test_a_timeout_ends_what_the_handler_started(agents, is_alive, wait_until):
    pid_file = agents.folder / "pid"
    agent = start_bad(
        agents,
        "import subprocess\np = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(p.pid))\np.wait()",
        timeout=0.5,
    )
    assert agent.invoke("bad").json["errorType"] == "Sandbox.Timedout"
    pid = int(pid_file.read_text())
    wait_until(lambda: not is_alive(pid), "the handler's own process is gone")
    check_next_works(agent)


def test_the_callers_deadline_ends_an_invocation_sooner(agents):
    agent = start_bad(agents, "import time; time.sleep(60)")
    check_next_works(agent)
    reply = agent.invoke("bad", Kappa_Deadline_Ms=str(int(time.time() * 1000) + 400))
    assert reply.json["errorType"] == "Sandbox.Timedout"
    assert re.search(r"Task timed out after 0\.[34]\d seconds", reply.json["errorMessage"])
    check_next_works(agent)


def test_a_start_that_hangs_within_an_invocation(agents):
    flag = agents.folder / "flag"
    agent = agents.start(
        f"""
        import os, time
        if not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, "w").close()
            raise SystemExit(1)
        time.sleep(60)
        """,
        timeout=0.5,
    )
    assert agent.ready().json["errorType"] == "Runtime.ExitError"
    reply = agent.invoke(Kappa_Request_Id="r1")
    assert reply.json["errorType"] == "Sandbox.Timedout"
    assert "r1 Task timed out after 0.50 seconds" in reply.json["errorMessage"]


def test_a_hundred_megabytes_of_output(agents):
    agent = start_bad(
        agents,
        "import sys\nfor _ in range(1600): sys.stdout.write('x' * 65535 + '\\n')\nprint('last')\nreturn 'said'",
        timeout=60.0,
    )
    check_next_works(agent)
    reply = agent.invoke("bad", X_Amz_Log_Type="Tail")
    assert reply.json == "said"
    assert "\nlast\nEND RequestId" in reply.log
    check_next_works(agent)
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 40 * 1024
    assert agent.stop() == 0
    assert agent.log.count("x" * 65535 + "\n") == 1600


def test_a_process_that_ends_between_invocations(agents, wait_until):
    agent = agents.start(
        """
        import os, threading
        def handler(event, context):
            if event == "bad":
                threading.Timer(0.1, os._exit, (1,)).start()
            return event
        """
    )
    assert agent.invoke("bad").json == "bad"
    wait_until(lambda: not agent.runtimes(), "it has ended, and nothing starts it without need")
    check_next_works(agent)
    assert len(agent.runtimes()) == 1


def test_there_is_no_bootstrap(agents):
    agent = agents.start(runtime="provided.al2023", handler="x.y")
    reply = agent.invoke()
    assert (reply.error, reply.json["errorType"]) == ("Unhandled", "Runtime.InvalidEntrypoint")
    assert "bootstrap" in reply.json["errorMessage"]
    assert agent.request("GET", wire.HEALTH_PATH).status == 200


def test_a_handler_that_is_no_handler(agents):
    agent = agents.start("x = 1", handler="nodot")
    ready = agent.ready()
    assert ready.json["errorType"] == "Kappa.CodeUnreadable"
    assert "module.function" in ready.json["errorMessage"]
    assert agent.invoke().json["errorType"] == "Kappa.CodeUnreadable"


def test_the_task_root_cannot_be_written(agents):
    agent = agents.start("x = 1", task_root="/proc/nowhere")
    ready = agent.ready()
    assert ready.json["errorType"] == "Kappa.CodeUnreadable"
    assert "/proc/nowhere/main.py" in ready.json["errorMessage"]


def test_a_start_that_hangs_is_ended_and_done_again_by_the_invocation(agents, is_alive, wait_until):
    # Lambda's limit on a start is 10 s; an invocation that waits for it then has its own timeout for another try
    agent = agents.start("import time\ntime.sleep(60)\n", timeout=0.5)
    (first,) = agent.runtimes()
    ready = agent.ready()
    assert (ready.json["state"], ready.json["errorType"]) == ("init_failed", "Sandbox.Timedout")
    assert "within 10 seconds" in ready.json["errorMessage"]
    wait_until(lambda: not is_alive(first), "the one that hangs is gone")
    reply = agent.invoke(Kappa_Request_Id="r1")
    assert reply.json["errorType"] == "Sandbox.Timedout"
    assert "r1 Task timed out after 0.50 seconds" in reply.json["errorMessage"]
