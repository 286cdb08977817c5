"""A pool's agent: what it answers while it is nobody's, who may take it, and what it is from then on."""

import functools
import hashlib
import http.client
import http.server
import io
import json
import os
import signal
import threading
import time
import zipfile
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from kappa_core import phases, specialize, wire

HELLO = """
import os
runs = 0
def handler(event, context):
    global runs
    runs += 1
    print("greets", event.get("name"))
    greeting = os.environ.get("GREETING")
    return {"hello": event.get("name"), "greeting": greeting, "id": context.aws_request_id, "runs": runs}
"""


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


# while it is nobody's


def test_it_says_that_it_waits(agents):
    agent = agents.start_pool()
    assert (agent.ready(0).status, agent.ready(0).json) == (200, {"state": "pool"})
    assert agent.request("GET", wire.HEALTH_PATH).status == 200
    refused = agent.invoke({})
    assert (refused.status, refused.headers[wire.REFUSED]) == (503, wire.REFUSED_POOL)
    assert "nothing was run" in refused.json["errorMessage"]
    assert agent.request("GET", "/other").status == 404
    assert agent.request("GET", wire.SPECIALIZE_PATH).status == 405
    assert len(agent.runtimes()) == 1


def test_it_ends_at_once(agents, is_alive):
    agent = agents.start_pool()
    (runtime,) = agent.runtimes()
    drain = agent.connection()
    drain.request("GET", wire.DRAIN_PATH)
    agent.request("GET", wire.HEALTH_PATH)
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 1
    assert drain.getresponse().read() == b'{"state": "drained"}'
    drain.close()
    assert not is_alive(runtime)


def test_sigterm_while_it_starts(agents):
    for _ in range(5):
        assert agents.start_pool(waits=False).stop() == 0


def test_a_key_that_is_none_is_told(agents):
    agent = agents.start_pool(pool_public_key="bm9uZQ==", waits=False)
    assert agent.process.wait(10) == 2
    assert "KAPPA_POOL_PUBLIC_KEY is no Ed25519 key of 32 bytes" in agent.log


def test_a_runtime_process_that_dies_while_it_waits_is_started_anew(agents, wait_until, is_alive):
    agent = agents.start_pool()
    for _ in range(2):
        (runtime,) = agent.runtimes()
        os.kill(runtime, signal.SIGKILL)
        wait_until(lambda dead=runtime: agent.runtimes() not in ([], [dead]), "another one")
        assert agent.ready().json == {"state": "pool"}
    assert "has ended (Runtime exited with error: signal: killed): it is started again" in agent.log
    assert agent.specialize(HELLO, {"name": "you"}, env={"GREETING": "hi"}).json["greeting"] == "hi"


def test_taken_in_the_moment_that_the_runtime_process_dies(agents):
    for _ in range(5):
        agent = agents.start_pool()
        (runtime,) = agent.runtimes()
        body = agent.body(HELLO, {"name": "you"})
        os.kill(runtime, signal.SIGKILL)
        reply = agent.request("POST", wire.SPECIALIZE_PATH, body)
        assert reply.json["hello"] == "you"


def test_modules_that_cannot_be_preloaded_are_logged(agents, wait_until):
    agent = agents.start_pool(pool_preload="json,no_such_module,decimal")
    wait_until(lambda: "no_such_module cannot be preloaded: ModuleNotFoundError" in agent.log, "a line")
    assert agent.specialize(HELLO, {"name": "you"}).json["hello"] == "you"


def test_one_that_dies_of_its_imports_is_started_without_them(agents, wait_until):
    agent = agents.start_pool(waits=False, pool_preload="no_such_module,asyncio,email,unittest,xmlrpc.client")
    (runtime,) = wait_until(agent.runtimes, "a runtime process")
    os.kill(runtime, signal.SIGKILL)
    assert agent.ready().json == {"state": "pool"}
    assert "the runtime process that was to wait has ended" in agent.log
    code = "import sys\ndef handler(event, context):\n    return 'xmlrpc.client' in sys.modules\n"
    assert agent.specialize(code).json is False


@pytest.mark.parametrize("later", [0, 0.03, 0.06, 0.09, 0.12])
def test_it_can_be_taken_before_its_runtime_process_waits(agents, later):
    agent = agents.start_pool(waits=False)
    time.sleep(later)
    first = agent.specialize(HELLO, {"name": "early"}, concurrency=2)
    assert first.json == {"hello": "early", "greeting": None, "id": "r-1", "runs": 1}
    assert agent.ready().status == 200
    assert agent.invoke({"name": "late"}).json["runs"] == 2


def test_taken_in_the_moment_that_it_dies_in_its_imports(agents, wait_until):
    for _ in range(5):
        agent = agents.start_pool(waits=False, pool_preload="asyncio,email,unittest,xmlrpc.client")
        body = agent.body(HELLO, {"name": "you"})
        (runtime,) = wait_until(agent.runtimes, "a runtime process")
        os.kill(runtime, signal.SIGKILL)
        assert agent.request("POST", wire.SPECIALIZE_PATH, body).json["hello"] == "you"


# who may take it


def test_the_first_event_is_answered_and_the_pod_is_the_functions(agents, wait_until):
    agent = agents.start_pool(pod_name="pod-1")
    first = agent.specialize(HELLO, {"name": "you"}, env={"GREETING": "grüezi"})
    assert first.status == 200
    assert first.json == {"hello": "you", "greeting": "grüezi", "id": "r-1", "runs": 1}
    assert first.error is None
    found = phases.read(first.headers[wire.PHASES])
    assert list(found) == list(phases.NAMES)
    assert float(first.headers[wire.INIT_DURATION_MS]) == pytest.approx(found["init"], abs=0.01)
    assert agent.ready().json == {
        "state": "ready",
        "function": "default/hello",
        "specHash": "spec-1",
        "initDurationMs": pytest.approx(found["init"], abs=0.1),
    }
    second = agent.invoke({"name": "me"}, Kappa_Request_Id="r-2")
    assert second.json == {"hello": "me", "greeting": "grüezi", "id": "r-2", "runs": 2}
    assert wire.PHASES not in second.headers
    wait_until(lambda: "REPORT RequestId: r-2" in agent.log, "the last line")
    for line in ("START RequestId: r-1 Version: $LATEST", "greets you", "END RequestId: r-1", "REPORT RequestId: r-1"):
        assert line in agent.log
    (report,) = [line for line in agent.log.splitlines() if line.startswith("REPORT RequestId: r-1")]
    assert "Init Duration: " in report
    (report,) = [line for line in agent.log.splitlines() if line.startswith("REPORT RequestId: r-2")]
    assert "Init Duration: " not in report


def test_an_ordinary_agent_says_its_phases_too_and_is_not_to_be_specialized(agents):
    agent = agents.start(HELLO)
    assert list(phases.read(agent.invoke().headers[wire.PHASES])) == [phases.INIT, phases.RUN]
    assert wire.PHASES not in agent.invoke().headers
    assert agent.request("POST", wire.SPECIALIZE_PATH, b"").status == 404
    # what a pool needs is not in its memory
    assert "sodium" not in Path(f"/proc/{agent.process.pid}/maps").read_text()


def test_an_idle_pod_is_small(agents):
    agent = agents.start_pool()
    pids = [agent.process.pid, *agent.runtimes()]
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    kib = sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:"))
    assert len(pids) == 2
    assert kib < 40 * 1024


def test_later_ones_find_it_taken(agents):
    agent = agents.start_pool()
    body = agent.body(HELLO, {"name": "you"})
    assert agent.request("POST", wire.SPECIALIZE_PATH, body).status == 200
    for again in (body, agent.body(HELLO, {"name": "me"}), b"x"):
        refused = agent.request("POST", wire.SPECIALIZE_PATH, again)
        assert (refused.status, refused.headers[wire.REFUSED]) == (409, wire.REFUSED_TAKEN)
    assert agent.invoke({"name": "me"}).json["runs"] == 2


def test_of_many_at_once_one_wins(agents):
    agent = agents.start_pool()
    replies = []
    callers = [
        threading.Thread(target=lambda name=name: replies.append(agent.specialize(HELLO, {"name": name})))
        for name in range(12)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(reply.status for reply in replies) == [200] + [409] * 11
    assert agent.invoke({}).json["runs"] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": SigningKey(bytes(32))}, wire.REFUSED_SIGNATURE),
        ({"changes": {"pod_uid": "uid-2"}}, wire.REFUSED_OTHER_POD),
        ({"changes": {"issued_at": time.time() - 3600}}, wire.REFUSED_STALE),
        ({"changes": {"issued_at": time.time() + 3600}}, wire.REFUSED_STALE),
        ({"runtime": "python3.12"}, wire.REFUSED_OTHER_POD),
    ],
)
def test_what_is_not_for_it_leaves_it_free(agents, changes, reason):
    agent = agents.start_pool()
    refused = agent.specialize(HELLO, {"name": "evil"}, **changes)
    assert (refused.status, refused.headers[wire.REFUSED]) == (403, reason)
    assert "nothing was run" in refused.json["errorMessage"]
    assert agent.ready().json == {"state": "pool"}
    assert agent.specialize(HELLO, {"name": "you"}).json["runs"] == 1


def test_what_was_altered_is_refused(agents):
    agent = agents.start_pool()
    body = agent.body(HELLO, {"name": "you"})
    altered = agent.request("POST", wire.SPECIALIZE_PATH, body.replace(b'"name": "you"', b'"name": "yo!"'))
    assert (altered.status, altered.headers[wire.REFUSED]) == (403, wire.REFUSED_ALTERED)
    other = agent.request("POST", wire.SPECIALIZE_PATH, body.replace(b"greets", b"greetz"))
    assert (other.status, other.headers[wire.REFUSED]) == (403, wire.REFUSED_SIGNATURE)
    assert agent.ready().json == {"state": "pool"}


@pytest.mark.parametrize(
    ("body", "headers", "what"),
    [
        (b"", {}, "signature|cut short"),
        (b"\xff" * 100, {}, "cut short"),
        (None, {wire.REQUEST_ID: "another"}, "signed"),
        (None, {wire.ATTEMPT: "first"}, wire.ATTEMPT),
        (None, {wire.DEADLINE_MS: "soon"}, wire.DEADLINE_MS),
    ],
)
def test_what_makes_no_sense_leaves_it_free(agents, body, headers, what):
    agent = agents.start_pool()
    if body is None:
        body = agent.body(HELLO, {"name": "you"})
    refused = agent.request("POST", wire.SPECIALIZE_PATH, body, headers)
    assert refused.status in (400, 403)
    assert any(word in refused.json["errorMessage"] for word in what.split("|"))
    assert agent.ready().json == {"state": "pool"}


def test_connections_from_before_go_on(agents):
    agent = agents.start_pool()
    warm = agent.connection()
    warm.request("GET", wire.READY_PATH)
    warm.getresponse().read()
    assert agent.specialize(HELLO, {"name": "you"}).status == 200
    warm.request("POST", wire.INVOKE_PATH, b"{}")
    assert json.loads(warm.getresponse().read())["runs"] == 2
    agent.terminate()
    assert agent.process.wait(10) == 0
    warm.close()


def test_a_large_event_comes_through(agents):
    agent = agents.start_pool()
    text = "x" * (wire.MAX_REQUEST_BYTES - 100)
    reply = agent.specialize("def handler(event, context):\n    return len(event['text'])\n", {"text": text})
    assert reply.json == len(text)


# the function's code and variables


def outcomes(agents, code, **config):
    """The answer of an ordinary start, and that from a pool."""
    ordinary = agents.start(code, **config).invoke({"n": 1}, Kappa_Request_Id="r-1")
    agent = agents.start_pool()
    return ordinary, agent.specialize(code, {"n": 1}, **config), agent


@pytest.mark.parametrize(
    ("code", "config", "error_type"),
    [
        ("import no_such_module", {}, "Runtime.ImportModuleError"),
        ("def handler(:", {}, "Runtime.UserCodeSyntaxError"),
        ("x = 1", {}, "Runtime.HandlerNotFound"),
        ("x = 1", {"handler": "other"}, None),
        ("raise RuntimeError('no')", {}, "RuntimeError"),
        ("import os; os._exit(7)", {}, "Runtime.ExitError"),
        ("def handler(event, context):\n    raise ValueError(event['n'])", {}, "ValueError"),
        ("import os\ndef handler(event, context):\n    os._exit(7)", {}, "Runtime.ExitError"),
        ("import time\ndef handler(event, context):\n    time.sleep(60)", {"timeout": 0.3}, "Sandbox.Timedout"),
    ],
)
def test_errors_are_those_of_an_ordinary_start(agents, code, config, error_type):
    ordinary, pooled, agent = outcomes(agents, code, **config)
    assert (pooled.status, pooled.error) == (ordinary.status, ordinary.error) == (200, "Unhandled")
    one, other = (dict(reply.json) for reply in (ordinary, pooled))
    if error_type is not None:
        assert one["errorType"] == error_type
    if error_type == "Sandbox.Timedout":
        one, other = ({**error, "errorMessage": error["errorMessage"].partition(" ")[2]} for error in (one, other))
    assert json.loads(json.dumps(other).replace(str(agent.task_root), str(agents.folder / "task0"))) == one


def test_a_process_that_crashed_is_started_as_any(agents, wait_until):
    agent = agents.start_pool()
    crash = HELLO.replace("runs += 1", "runs += 1\n    if event.get('crash'): os._exit(1)")
    assert agent.specialize(crash, {"name": "you"}, env={"GREETING": "hi"}).json["runs"] == 1
    assert agent.invoke({"crash": True}).json["errorType"] == "Runtime.ExitError"
    again = agent.invoke({"name": "me"})
    assert (again.json["runs"], again.json["greeting"]) == (1, "hi")
    assert phases.read(again.headers[wire.PHASES]).keys() == {"init", "run"}


def test_an_archive_in_the_request(agents):
    agent = agents.start_pool()
    content = zipped({"main.py": "from lib import mine\nhandler = mine.handler\n", "lib/mine.py": HELLO})
    reply = agent.specialize(
        "", {"name": "you"}, zipped=content, code_archive_url="https://example.invalid/code.zip?sig=x"
    )
    assert reply.json["hello"] == "you"
    assert (agent.task_root / "lib" / "mine.py").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"no zip", "no zip file"), (zipped({"../../out.py": "x"}), "leads out of the task root")],
)
def test_an_archive_that_is_none(agents, content, what):
    agent = agents.start_pool()
    for reply in (
        agent.specialize("", {}, zipped=content, code_archive_url="https://example.invalid/code.zip?sig=secret"),
        agent.invoke({}),
    ):
        assert (reply.error, reply.json["errorType"]) == ("Unhandled", "Kappa.CodeUnreadable")
        assert what in reply.json["errorMessage"]
        assert "secret" not in reply.json["errorMessage"]
    assert agent.ready().json["function"] == "default/hello"


@pytest.fixture
def archive_url(tmp_path):
    """Where `code.zip` can be fetched."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "code.zip").write_bytes(zipped({"main.py": HELLO}))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "files")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/code.zip"
        server.shutdown()
        thread.join()


def test_an_archive_that_is_fetched(agents, archive_url, tmp_path):
    agent = agents.start_pool()
    content = (tmp_path / "files" / "code.zip").read_bytes()
    url = archive_url
    reply = agent.specialize(
        "", {"name": "you"}, code_archive_url=url, code_archive_sha256=hashlib.sha256(content).hexdigest()
    )
    assert reply.json["hello"] == "you"
    found = phases.read(reply.headers[wire.PHASES])
    assert found["code"] > found["init"] / 10
    wrong = agents.start_pool()
    reply = wrong.specialize("", {}, code_archive_url=url, code_archive_sha256="0" * 64)
    assert "set code.archive.sha256" in reply.json["errorMessage"]


def test_the_functions_own_modules_come_before_what_was_imported_ahead(agents):
    agent = agents.start_pool()
    content = zipped(
        {
            "main.py": "import queue, zipfile, urllib.request\nfrom tempfile import mine\n"
            "def handler(event, context):\n"
            "    return [queue.MINE, mine, zipfile.MINE, len(urllib.request.__file__) > 0]\n",
            "queue.py": "MINE = 'queue'\n",
            "tempfile.py": "mine = 'tempfile'\n",
            "zipfile/__init__.py": "MINE = 'zipfile'\n",
        }
    )
    assert agent.specialize("", {}, zipped=content).json == ["queue", "tempfile", "zipfile", True]


def test_a_task_root_that_cannot_be_written_to_is_told_of(agents):
    agent = agents.start_pool(task_root="/sys")
    reply = agent.specialize(HELLO)
    assert (reply.error, reply.json["errorType"]) == ("Unhandled", "Kappa.CodeUnreadable")
    assert "cannot be saved as /sys/main.py" in reply.json["errorMessage"]


def test_told_to_stop_while_the_functions_code_loads(agents, wait_until):
    agent = agents.start_pool()
    code = "import time\ntime.sleep(0.5)\ndef handler(event, context):\n    return 'done'\n"
    replies = []
    caller = threading.Thread(target=lambda: replies.append(agent.specialize(code)))
    caller.start()
    wait_until(lambda: agent.ready(0).json.get("function") == "default/hello", "it is taken")
    assert agent.ready(0).json["specHash"] == "spec-1"
    agent.terminate()
    caller.join()
    assert replies[0].json == "done"
    assert agent.process.wait(10) == 0


def test_more_variables_than_the_pipe_holds(agents):
    agent = agents.start_pool()
    env = {f"V{n}": "x" * 1000 for n in range(200)}
    code = (
        "import os\ndef handler(event, context):\n"
        "    return sum(len(v) for k, v in os.environ.items() if k[0] == 'V')\n"
    )
    assert agent.specialize(code, {}, env=env).json == 200_000
    assert len(agent.runtimes()) == 1


def test_concurrency(agents):
    agent = agents.start_pool()
    code = "import os, time\ndef handler(event, context):\n    time.sleep(event)\n    return os.getpid()\n"
    replies = []
    first = threading.Thread(target=lambda: replies.append(agent.specialize(code, 1.0, concurrency=3)))
    first.start()
    while "START" not in agent.log and len(agent.runtimes()) < 2:
        reply = agent.invoke(0)
        if reply.status == 200:
            break
    others = [threading.Thread(target=lambda: replies.append(agent.invoke(0.5))) for _ in range(2)]
    for one in others:
        one.start()
    for one in (first, *others):
        one.join()
    assert len({reply.json for reply in replies}) == 3


def test_no_secret_is_logged(agents):
    agent = agents.start_pool()
    agent.specialize(HELLO, {"name": "you"}, env={"PASSWORD": "hunter2"}, key=SigningKey.generate())
    agent.specialize("import nothing_at_all", {"token": "s3cr3t"}, env={"PASSWORD": "hunter2"})
    agent.stop()
    assert "hunter2" not in agent.log
    assert "s3cr3t" not in agent.log
    assert "ImportModuleError" in agent.log


# events and ends


def test_the_first_events_answer_is_kept(agents):
    agent = agents.start_pool()
    headers = {wire.ATTEMPT: "1"}
    first = agent.specialize(HELLO, {"name": "you"}, headers)
    again = agent.request("POST", wire.INVOKE_PATH, b"{}", {wire.ATTEMPT: "1", wire.REQUEST_ID: "r-1"})
    assert again.json == first.json
    assert again.headers[wire.PHASES] == first.headers[wire.PHASES]
    assert agent.request("DELETE", f"{wire.KEPT_PATH}r-1/1").json == {"forgotten": True}
    assert agent.request("GET", f"{wire.KEPT_PATH}r-1/1").status == 404


def test_a_gateway_that_died_after_sending_it(agents):
    agent = agents.start_pool()
    code = HELLO.replace("runs += 1", "runs += 1\n    import time; time.sleep(0.5)")
    connection = agent.connection()
    connection.request("POST", wire.SPECIALIZE_PATH, agent.body(code, {"name": "you"}), {wire.ATTEMPT: "1"})
    while agent.ready(0).json["state"] == "pool":
        pass
    connection.close()
    connection = agent.connection()
    connection.request("GET", f"{wire.KEPT_PATH}r-1/1")
    response = connection.getresponse()
    while response.status == 102:
        response = http.client.HTTPResponse(connection.sock)
        response.begin()
    assert json.loads(response.read())["runs"] == 1
    connection.close()


def test_a_running_first_event_ends_before_the_agent_does(agents, wait_until):
    agent = agents.start_pool()
    code = "import time\ndef handler(event, context):\n    print('began')\n    time.sleep(0.5)\n    return 'done'\n"
    replies = []
    caller = threading.Thread(target=lambda: replies.append(agent.specialize(code)))
    caller.start()
    wait_until(lambda: "began" in agent.log, "it runs")
    agent.terminate()
    caller.join()
    assert replies[0].json == "done"
    assert agent.process.wait(10) == 0
    assert "END RequestId: r-1" in agent.log


def test_the_limit_of_a_request(agents):
    agent = agents.start_pool()
    body = b"x" * (specialize.MAX_BODY_BYTES + 1)
    assert agent.request("POST", wire.SPECIALIZE_PATH, body).status == 413
    assert agent.ready().json == {"state": "pool"}
