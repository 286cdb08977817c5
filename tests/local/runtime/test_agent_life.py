"""How an agent starts, drains and ends, and what is left of it."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from kappa_core import wire
from kappa_runtime.agent.drain import STOP_GRACE

SLEEPER = """
import time
def handler(event, context):
    print("began", event)
    time.sleep(event)
    return event
"""


def run_in_background(agent, event, request_id="slow"):
    replies = []
    caller = threading.Thread(target=lambda: replies.append(agent.invoke(event, Kappa_Request_Id=request_id)))
    caller.start()
    return caller, replies


def test_a_running_invocation_ends_before_the_agent_does(agents, wait_until):
    agent = agents.start(SLEEPER)
    agent.ready()
    idle = agent.connection()
    idle.request("GET", wire.HEALTH_PATH)
    idle.getresponse().read()
    caller, replies = run_in_background(agent, 0.8)
    wait_until(lambda: "began 0.8" in agent.log, "it runs")
    agent.terminate()
    wait_until(lambda: agent.ready().json == {"state": "draining"}, "the agent drains")
    idle.request("POST", wire.INVOKE_PATH, b"0")
    refused = idle.getresponse()
    assert (refused.status, refused.headers[wire.REFUSED]) == (503, wire.REFUSED_DRAINING)
    assert refused.headers["Connection"] == "close"
    refused.read()
    idle.close()
    caller.join()
    assert replies[0].json == 0.8
    assert agent.process.wait(10) == 0
    assert "END RequestId: slow" in agent.log


def test_what_runs_too_long_is_given_up(agents, wait_until, is_alive):
    agent = agents.start(SLEEPER, drain_timeout=0.3, timeout=60.0)
    agent.ready()
    (runtime,) = agent.runtimes()
    caller, replies = run_in_background(agent, 50)
    wait_until(lambda: "began 50" in agent.log, "it runs")
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 5
    caller.join()
    assert (replies[0].error, replies[0].json["errorType"]) == ("Unhandled", "Kappa.PodStopped")
    assert "0.3 s" in replies[0].json["errorMessage"]
    assert not is_alive(runtime)


def test_an_idle_agent_ends_at_once(agents):
    agent = agents.start(SLEEPER)
    agent.ready()
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 1


def test_sigterm_while_the_agent_itself_starts(agents):
    for _ in range(5):
        assert agents.start(SLEEPER).stop() == 0


@pytest.mark.parametrize("env", [{}, {"PYTHONNOUSERSITE": "1"}], ids=["forked", "an interpreter of its own"])
def test_a_stop_while_a_runtime_process_starts_is_no_failed_start(env, agents, wait_until, is_alive):
    agent = agents.start("import time\nprint('began')\ntime.sleep(60)\n", env=env)
    wait_until(lambda: "began" in agent.log, "it starts")
    (runtime,) = agent.runtimes()
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < STOP_GRACE, "it ended with SIGTERM"
    assert not is_alive(runtime)
    assert agent.log == "began\n"


def test_a_stop_between_fork_and_exec_ends_the_process():
    """The agent's own handler for SIGTERM, which the fork has too, must not take it."""
    script = """
import os, signal, sys
from kappa_runtime import platform
from kappa_runtime.start import spawn

taken = []
signal.signal(signal.SIGTERM, lambda *args: taken.append(args))
gate, opened = os.pipe()
platform.end_first_when_out_of_memory = lambda: os.read(gate, 1)
go_on = os.fork
def fork():
    pid = go_on()
    if pid:
        os.setpgid(pid, pid)
        os.killpg(pid, signal.SIGTERM)
        os.write(opened, b"x")
    return pid
os.fork = fork
child = spawn.execute(["sleep", "30"], os.environ, "/", parent_death=False)
_, status = os.waitpid(child.pid, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
os.kill(os.getpid(), signal.SIGTERM)
assert len(taken) == 1, "the agent has its handler still"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=40)


def test_the_runtime_process_gets_to_say_goodbye(agents):
    agent = agents.start(
        """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: (print("goodbye"), sys.exit(0)))
        def handler(event, context):
            return event
        """
    )
    assert agent.invoke(1).json == 1
    assert agent.stop() == 0
    assert "goodbye" in agent.log


def test_a_runtime_process_that_ignores_sigterm_is_killed(agents, is_alive):
    agent = agents.start("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER)
    agent.ready()
    (runtime,) = agent.runtimes()
    assert agent.stop() == 0
    assert not is_alive(runtime)


def test_a_killed_agent_leaves_no_process(agents, wait_until, is_alive):
    agent = agents.start(SLEEPER, timeout=60.0, concurrency=2)
    agent.ready()
    connections = [agent.connection() for _ in range(2)]
    for number, connection in enumerate(connections):
        connection.request("POST", wire.INVOKE_PATH, b"5%d" % number)
    wait_until(lambda: "began 50" in agent.log and "began 51" in agent.log, "both run")
    runtimes = agent.runtimes()
    assert len(runtimes) == 2
    agent.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in runtimes), "the runtime processes are gone")
    for connection in connections:
        connection.close()


def test_an_agent_ends_with_its_parent(agents, tmp_path, wait_until, is_alive, children_of):
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-I', '-m', 'kappa_runtime'])"],
        env={
            "PATH": os.environ["PATH"],
            "KAPPA_FUNCTION_NAME": "hello",
            "KAPPA_HANDLER": "main.handler",
            "KAPPA_RUNTIME": "python3.13",
            "KAPPA_CODE_INLINE": SLEEPER,
            "KAPPA_TASK_ROOT": str(tmp_path),
            "KAPPA_PORT": "0",
            "KAPPA_RUNTIME_API_PORT": "0",
            "KAPPA_PARENT_DEATH": "1",
        },
        stdout=subprocess.DEVNULL,
    )
    agent = wait_until(lambda: children_of(parent.pid), "the agent")[0]
    runtime = wait_until(lambda: children_of(agent), "the runtime process")[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not is_alive(agent) and not is_alive(runtime), "both are gone")


def test_a_function_that_leaves_processes_behind(agents, wait_until):
    # only a container's first process inherits orphans; here the agent must at least stay well
    agent = agents.start(
        """
        import subprocess
        def handler(event, context):
            subprocess.Popen(["sh", "-c", "sleep 0.05 &"])
            return event
        """
    )
    assert [agent.invoke(number).json for number in range(20)] == list(range(20))
    assert agent.stop() == 0


def test_stdout_that_nobody_reads_holds_the_function_not_the_agent(agents, wait_until):
    read_end, write_end = os.pipe()
    agent = agents.start(
        """
        def handler(event, context):
            for _ in range(event):
                print("x" * 1023)
            return event
        """,
        stdout=write_end,
        timeout=60.0,
    )
    os.close(write_end)
    assert agent.invoke(1).json == 1
    caller, replies = run_in_background(agent, 20_000)
    for _ in range(20):
        assert agent.request("GET", wire.HEALTH_PATH).status == 200
    assert not replies
    size = 0
    with os.fdopen(read_end, "rb", buffering=0) as stdout:
        while size < 20_001 * 1024:
            size += len(stdout.read(1 << 20))
        caller.join()
        assert replies[0].json == 20_000
        assert agent.invoke(1).json == 1
        agent.process.kill()
        while stdout.read(1 << 20):
            pass


def test_stdout_that_nobody_reads_ends_with_the_timeout(agents):
    read_end, write_end = os.pipe()
    agent = agents.start(
        "def handler(event, context):\n    print('x' * event)\n    return event\n", stdout=write_end, timeout=1.0
    )
    os.close(write_end)
    for _ in range(2):
        assert agent.invoke(3_000_000).json["errorType"] == "Sandbox.Timedout"
    assert agent.invoke(1).status == 200
    os.close(read_end)
    assert agent.invoke(2_000_000).json == 2_000_000


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KAPPA_FUNCTION_NAME", None, "KAPPA_FUNCTION_NAME is not set"),
        ("KAPPA_PORT", "http", "KAPPA_PORT='http' cannot be read"),
        ("KAPPA_TIMEOUT", "3s", "KAPPA_TIMEOUT='3s' cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path, variable, value, message):
    env = {"KAPPA_FUNCTION_NAME": "hello", "KAPPA_PORT": "0", "KAPPA_RUNTIME_API_PORT": "0", "KAPPA_SIDECAR": "1"}
    env = env | {variable: value} if value else {key: text for key, text in env.items() if key != variable}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "kappa_runtime"], env=env, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("kappa-agent: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(agents):
    agent = agents.start(SLEEPER)
    done = subprocess.run(
        [sys.executable, "-I", "-m", "kappa_runtime"],
        env={"KAPPA_FUNCTION_NAME": "hello", "KAPPA_HOST": "127.0.0.1", "KAPPA_PORT": str(agent.port)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{agent.port}: Address already in use" in done.stderr


def test_the_answer_after_sigterm_on_a_connection_that_is_kept(agents, wait_until):
    agent = agents.start(SLEEPER)
    agent.ready()
    connection = agent.connection()
    connection.request("GET", wire.HEALTH_PATH)
    connection.getresponse().read()
    agent.terminate()
    connection.request("POST", wire.INVOKE_PATH, b"0")
    reply = connection.getresponse()
    assert isinstance(reply, http.client.HTTPResponse)
    assert reply.status in (200, 503)
    reply.read()
    connection.close()
    assert agent.process.wait(10) == 0


def test_out_of_memory_it_is_the_function_that_ends(agents):
    agent = agents.start("def handler(event, context):\n    return open('/proc/self/oom_score_adj').read()\n")
    assert agent.invoke().json == "1000\n"
