"""What a function sees of an invocation, and what its caller gets."""

import base64
import json
import threading
import time

import pytest

from kappa_core import wire

ECHO = """
def handler(event, context):
    return event
"""


def test_an_invocation_is_answered(agents):
    agent = agents.start("def handler(event, context):\n    return {'hello': event['name']}\n")
    reply = agent.invoke({"name": "wörld"})
    assert reply.status == 200
    assert reply.json == {"hello": "wörld"}
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers[wire.EXECUTED_VERSION] == "$LATEST"
    assert reply.error is None
    assert float(reply.headers[wire.DURATION_MS]) > 0


def test_the_start_is_reported_once(agents):
    agent = agents.start(ECHO)
    first, second = agent.invoke(), agent.invoke()
    assert float(first.headers[wire.INIT_DURATION_MS]) > 0
    assert wire.INIT_DURATION_MS not in second.headers
    assert agent.stop() == 0
    assert agent.log.count("Init Duration") == 1


def test_ready_is_told_to_who_waits(agents):
    agent = agents.start("import time\ntime.sleep(0.3)\n" + ECHO)
    assert agent.request("GET", wire.READY_PATH).json == {"state": "initializing"}
    reply = agent.ready()
    assert (reply.status, reply.json["state"]) == (200, "ready")
    assert reply.json["initDurationMs"] > 300


def test_ready_gives_up_waiting(agents):
    agent = agents.start("import time\ntime.sleep(30)\n" + ECHO)
    reply = agent.ready(wait=0.1)
    assert (reply.status, reply.json) == (503, {"state": "initializing"})


def test_an_event_that_is_no_object_and_an_empty_one(agents):
    agent = agents.start(ECHO)
    for event in ([1, 2], "text", 3, None):
        assert agent.request("POST", wire.INVOKE_PATH, json.dumps(event).encode()).json == event
    assert agent.request("POST", wire.INVOKE_PATH, b"").json == {}


def test_the_context_is_lambdas(agents):
    agent = agents.start(
        """
        def handler(event, context):
            return {
                "id": context.aws_request_id, "name": context.function_name, "version": context.function_version,
                "arn": context.invoked_function_arn, "memory": context.memory_limit_in_mb,
                "group": context.log_group_name, "stream": context.log_stream_name,
                "left": context.get_remaining_time_in_millis(),
                "custom": context.client_context.custom, "app": context.client_context.client.app_title,
                "identity": context.identity.cognito_identity_id,
            }
        """,
        memory_mib=256,
        function_namespace="team-a",
        pod_name="hello-1",
    )
    context = {"custom": {"ünder": "line\nfeed"}, "client": {"app_title": "shop"}}
    reply = agent.invoke(
        Kappa_Request_Id="abc-1",
        X_Amz_Client_Context=base64.b64encode(json.dumps(context).encode()).decode(),
        X_Amz_Cognito_Identity='{"cognitoIdentityId":"me"}',
    ).json
    assert 5000 < reply.pop("left") <= 10_000
    assert reply.pop("stream").endswith("/[$LATEST]hello-1")
    assert reply == {
        "id": "abc-1",
        "name": "hello",
        "version": "$LATEST",
        "arn": "arn:aws:lambda:us-east-1:000000000000:function:team-a.hello",
        "memory": "256",
        "group": "/aws/lambda/hello",
        "custom": {"ünder": "line\nfeed"},
        "app": "shop",
        "identity": "me",
    }


def test_the_invoked_arn_and_the_deadline_are_the_callers(agents):
    agent = agents.start(
        "def handler(event, context):\n"
        "    return [context.invoked_function_arn, context.get_remaining_time_in_millis()]\n"
    )
    arn, left = agent.invoke(
        Kappa_Invoked_Function_Arn="arn:aws:lambda:eu-west-1:1:function:x",
        Kappa_Deadline_Ms=str(int(time.time() * 1000) + 4000),
    ).json
    assert arn == "arn:aws:lambda:eu-west-1:1:function:x"
    assert 0 < left <= 4000


def test_the_environment_is_lambdas(agents):
    agent = agents.start(
        "import os, sys\ndef handler(event, context):\n    return [dict(os.environ), os.getcwd(), sys.path]\n",
        env={"GREETING": "hi", "PYTHONPATH": "/opt/mine", "AWS_REGION": "eu-central-1"},
    )
    env, cwd, path = agent.invoke(X_Amzn_Trace_Id="Root=1-2-3").json
    root = str(agents.folder / "task0")
    assert not [name for name in env if name.startswith("KAPPA_")]
    expected = {
        "GREETING": "hi",
        "_HANDLER": "main.handler",
        "LAMBDA_TASK_ROOT": root,
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/hello",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "TZ": ":UTC",
        "PYTHONUNBUFFERED": "1",
        "_X_AMZN_TRACE_ID": "Root=1-2-3",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert cwd == root
    assert path[:2] == [root, "/opt/mine"]


def test_the_log_tail_is_the_invocations_own(agents):
    agent = agents.start(
        """
        import sys
        def handler(event, context):
            print("out", event)
            print("err", event, file=sys.stderr)
            print("no newline", end="")
        """
    )
    agent.invoke(1)
    log = agent.invoke(2, X_Amz_Log_Type="Tail", Kappa_Request_Id="r2").log
    lines = log.splitlines()
    assert lines[:3] == ["START RequestId: r2 Version: $LATEST", "out 2", "err 2"]
    assert lines[3].startswith("no newline")
    assert "END RequestId: r2" in log
    assert "out 1" not in log
    report = lines[-1]
    assert report.startswith("REPORT RequestId: r2\tDuration: ")
    assert "\tMemory Size: 128 MB\tMax Memory Used: " in report
    assert "Max Memory Used: 0 MB" not in report
    assert agent.stop() == 0
    assert "out 1\nerr 1\nno newline\nEND RequestId: " in agent.log


def test_no_log_without_asking(agents):
    agent = agents.start(ECHO)
    assert wire.LOG_RESULT not in agent.invoke().headers


def test_the_tail_is_the_last_4_kib(agents):
    agent = agents.start("def handler(event, context):\n    print('é' * 100_000)\n")
    reply = agent.invoke(X_Amz_Log_Type="Tail")
    assert 4000 < len(base64.b64decode(reply.headers[wire.LOG_RESULT])) <= wire.LOG_TAIL_BYTES
    assert "ééé\nEND RequestId" in reply.log


def test_bytes_are_an_answer(agents):
    agent = agents.start("def handler(event, context):\n    return b'\\x00\\xff'\n")
    assert agent.invoke().body == b"\x00\xff"


def test_the_largest_event_and_answer(agents):
    agent = agents.start(ECHO)
    body = json.dumps("x" * (wire.MAX_REQUEST_BYTES - 2)).encode()
    reply = agent.request("POST", wire.INVOKE_PATH, body)
    assert reply.error is None
    assert reply.body == body


def test_an_event_over_the_limit_is_refused(agents):
    agent = agents.start(ECHO, max_request_bytes=1000)
    reply = agent.request("POST", wire.INVOKE_PATH, b'"' + b"x" * 1000 + b'"')
    assert reply.status == 413
    assert "1000 bytes" in reply.json["errorMessage"]
    chunked = agent.request("POST", wire.INVOKE_PATH, iter([b"x" * 600, b"x" * 600]))
    assert chunked.status == 413
    assert agent.invoke(1).json == 1


def test_modules_and_packages_as_handlers(agents):
    for number, handler in enumerate(("app.run", "pkg/mod.run", "pkg.mod.run")):
        agent = agents.start("def run(event, context):\n    return __name__\n", handler=handler)
        assert agent.invoke().json == handler.rpartition(".")[0].replace("/", "."), number


def test_code_in_the_task_root(agents):
    agent = agents.start(
        files={
            "main.py": "import helper\ndef handler(event, context):\n    return helper.VALUE\n",
            "helper.py": "VALUE = 7\n",
        }
    )
    assert agent.invoke().json == 7


def test_a_module_of_the_function_does_not_reach_the_agent(agents):
    # the agent imports json when it first needs it; the function's json.py must not be that
    agent = agents.start(
        files={
            "main.py": "def handler(event, context):\n    raise ValueError('x')\n",
            "uuid.py": "raise SystemExit(9)\n",
        }
    )
    assert agent.request("GET", "/nowhere").status == 404
    assert agent.invoke().json["errorType"] == "ValueError"


def test_a_full_agent_says_busy(agents, wait_until):
    agent = agents.start("import time\ndef handler(event, context):\n    time.sleep(event)\n    return event\n")
    agent.invoke(0)
    replies = []
    caller = threading.Thread(target=lambda: replies.append(agent.invoke(0.7, Kappa_Request_Id="slow")))
    caller.start()
    wait_until(lambda: "START RequestId: slow" in agent.log, "the first one runs")
    refused = agent.invoke(0)
    assert refused.status == 429
    assert refused.headers[wire.REFUSED] == wire.REFUSED_BUSY
    caller.join()
    assert replies[0].json == 0.7
    assert agent.invoke(0).json == 0


def test_concurrency_runs_as_many_processes_as_needed(agents):
    agent = agents.start(
        "import os, time\ndef handler(event, context):\n"
        "    print('run')\n    time.sleep(event)\n    return os.getpid()\n",
        concurrency=3,
    )
    agent.ready()
    assert len(agent.runtimes()) == 1
    replies = []
    callers = [threading.Thread(target=lambda: replies.append(agent.invoke(1.0))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert len({reply.json for reply in replies}) == 3
    assert len(agent.runtimes()) == 3
    assert agent.invoke(0).json in {reply.json for reply in replies}


def test_a_caller_that_leaves_frees_its_slot_when_the_invocation_ends(agents, wait_until):
    agent = agents.start(
        "import time\ndef handler(event, context):\n    time.sleep(event)\n    print('done', event)\n    return event\n"
    )
    agent.invoke(0)
    connection = agent.connection()
    connection.request("POST", wire.INVOKE_PATH, b"0.5", {"Kappa-Request-Id": "slow"})
    wait_until(lambda: "START RequestId: slow" in agent.log, "the invocation runs")
    connection.close()
    assert agent.invoke(0).status == 429
    assert wait_until(lambda: agent.invoke(0).status == 200, "the slot is free again")
    assert "done 0.5" in agent.log


def test_invocations_on_one_connection(agents):
    agent = agents.start(ECHO)
    connection = agent.connection()
    for number in range(50):
        connection.request("POST", wire.INVOKE_PATH, str(number).encode())
        assert connection.getresponse().read() == str(number).encode()
    connection.close()


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-Amz-Client-Context": "{}"}, "base64"),
        ({"X-Amz-Client-Context": base64.b64encode(b"[1]").decode()}, "object"),
        ({"Kappa-Request-Id": "a/b"}, "letters"),
        ({"Kappa-Deadline-Ms": "soon"}, "milliseconds"),
    ],
)
def test_headers_that_cannot_be_read(agents, headers, message):
    agent = agents.start(ECHO)
    reply = agent.request("POST", wire.INVOKE_PATH, b"1", headers)
    assert reply.status == 400
    assert message in reply.json["errorMessage"]
    assert agent.invoke(1).json == 1


def test_json_that_is_none_is_the_functions_own_error(agents):
    agent = agents.start(ECHO)
    reply = agent.request("POST", wire.INVOKE_PATH, b"{not json")
    assert reply.error == "Unhandled"
    assert reply.json["errorType"] == "Runtime.UnmarshalError"
    assert agent.invoke(1).json == 1
