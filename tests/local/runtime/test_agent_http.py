"""Requests that are none, over raw sockets: a clear answer, and the agent goes on."""

import http.client
import json
import os
import socket

import pytest

from kappa_core import wire

ECHO = "def handler(event, context):\n    return event\n"


def talk(port, data, *, shut=True):
    """Everything that the agent sends until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(data)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    return received


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"POST " + wire.INVOKE_PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST "
        + wire.INVOKE_PATH.encode()
        + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n1",
        b"POST "
        + wire.INVOKE_PATH.encode()
        + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1",
        b"POST " + wire.INVOKE_PATH.encode() + b" HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
)
def test_what_is_no_request(agents, data):
    agent = agents.start(ECHO)
    answer = talk(agent.port, data)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["errorType"] == "InvalidRequest"
    assert agent.invoke(1).json == 1


def test_an_upgrade_is_answered_without_it(agents):
    agent = agents.start(ECHO)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert talk(agent.port, request + b"\x81\x05hello", shut=False).endswith(b'{"status":"ok"}')
    assert agent.invoke(1).json == 1


def test_a_request_before_garbage_is_answered(agents):
    agent = agents.start(ECHO)
    answer = talk(agent.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\0garbage\r\n\r\n", shut=False)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1


def test_random_bytes_never_harm(agents):
    agent = agents.start(ECHO)
    for seed in range(50):
        talk(agent.port, os.urandom(seed * 20 + 1))
        talk(agent.port, b"POST / HTTP/1.1\r\n" + os.urandom(200))
    assert agent.invoke(1).json == 1


def test_a_head_without_end(agents):
    agent = agents.start(ECHO)
    answer = talk(agent.port, b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"x" * 200_000, shut=False)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert agent.invoke(1).json == 1


def test_paths_and_methods(agents):
    agent = agents.start(ECHO)
    missing = agent.request("GET", "/nowhere")
    assert (missing.status, missing.json["errorType"]) == (404, "NotFound")
    assert "/nowhere" in missing.json["errorMessage"]
    assert agent.request("GET", wire.INVOKE_PATH).status == 405
    assert agent.request("POST", "/2015-03-31/functions/other/invocations?x=1", b"2").json == 2
    assert agent.request("GET", wire.READY_PATH + "?wait=x").status == 400
    assert agent.request("GET", wire.READY_PATH + "?wait=nan").status == 400
    assert agent.request("GET", wire.HEALTH_PATH).json == {"status": "ok"}


def test_pipelined_requests_are_answered_in_order(agents):
    agent = agents.start(ECHO)
    request = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d"
    data = b"".join(request % (wire.INVOKE_PATH.encode(), number) for number in range(10, 40))
    data += b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = talk(agent.port, data, shut=False)
    assert [piece[:2] for piece in answer.split(b"\r\n\r\n")[1:31]] == [b"%d" % number for number in range(10, 40)]
    assert answer.endswith(b'{"status":"ok"}')


def test_expect_continue(agents):
    agent = agents.start(ECHO, max_request_bytes=100)
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as connection:
        connection.sendall(head % (wire.INVOKE_PATH.encode(), 2))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"42")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        assert answer.endswith(b"\r\n\r\n42")
    assert talk(agent.port, head % (wire.INVOKE_PATH.encode(), 200), shut=False).startswith(b"HTTP/1.1 413 ")


def test_a_request_that_stops_in_the_middle(agents):
    agent = agents.start(ECHO)
    head = b"POST " + wire.INVOKE_PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12"
    talk(agent.port, head)
    assert agent.invoke(1).json == 1


def test_a_caller_that_shuts_its_side_gets_its_answer(agents):
    agent = agents.start("import time\ndef handler(event, context):\n    time.sleep(0.2)\n    return event\n")
    agent.ready()
    data = b"POST " + wire.INVOKE_PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7"
    assert talk(agent.port, data).endswith(b"\r\n\r\n7")


def test_the_runtime_api_refuses_without_harm(agents):
    # the function itself calls the Runtime API in ways it should not
    agent = agents.start(
        """
        import http.client, os
        def handler(event, context):
            results = []
            for method, path in (
                ("POST", "/2018-06-01/runtime/invocation/unknown/response"),
                ("POST", "/2018-06-01/runtime/invocation/unknown/error"),
                ("POST", "/2018-06-01/runtime/init/error"),
                ("GET", "/2018-06-01/nothing"),
            ):
                connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
                connection.request(method, path, b"{}")
                response = connection.getresponse()
                results.append([response.status, __import__("json").loads(response.read())["errorType"]])
                connection.close()
            return results
        """
    )
    for _ in range(2):
        assert agent.invoke().json == [
            [400, "InvalidRequestID"],
            [400, "InvalidRequestID"],
            [403, "InvalidStateTransition"],
            [404, "NotFound"],
        ]


BOOTSTRAP = f"""#!{os.path.realpath("/usr/bin/env")} python3
import base64, http.client, json, os
address = os.environ["AWS_LAMBDA_RUNTIME_API"]
assert os.environ["_HANDLER"] == "some.handler"
def call(method, path, body=None, headers={{}}):
    connection = http.client.HTTPConnection(address)
    connection.request(method, "/2018-06-01/runtime" + path, body, headers, encode_chunked=True)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response, answer
first = None
while True:
    response, event = call("GET", "/invocation/next")
    id = response.headers["Lambda-Runtime-Aws-Request-Id"]
    first = first or id
    event = json.loads(event)
    if event == "stream":
        call("POST", f"/invocation/{{id}}/response", iter([b"one,", b"two"]),
             {{"Lambda-Runtime-Function-Response-Mode": "streaming", "Transfer-Encoding": "chunked",
               "Content-Type": "text/x-parts"}})
    elif event == "broken":
        connection = http.client.HTTPConnection(address)
        connection.putrequest("POST", f"/2018-06-01/runtime/invocation/{{id}}/response")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        failure = base64.b64encode(b'{{"errorType": "Half", "errorMessage": "way"}}').decode()
        trailer = "Lambda-Runtime-Function-Error-Type: Half\\r\\n"
        trailer += f"Lambda-Runtime-Function-Error-Body: {{failure}}\\r\\n\\r\\n"
        connection.send(f"3\\r\\none\\r\\n0\\r\\n{{trailer}}".encode())
        connection.getresponse().read()
        connection.close()
    elif event == "late":
        call("POST", f"/invocation/{{id}}/response", b"1")
        response, answer = call("POST", f"/invocation/{{id}}/response", b"2")
        late = [response.status, json.loads(answer)["errorType"]]
    elif event == "was late":
        call("POST", f"/invocation/{{id}}/response", json.dumps(late).encode())
    else:
        call("POST", f"/invocation/{{id}}/error", b"", {{"Lambda-Runtime-Function-Error-Type": "Custom.Error"}})
"""


def test_a_custom_runtime(agents):
    agent = agents.start(runtime="provided.al2023", handler="some.handler", files={"bootstrap": BOOTSTRAP})
    streamed = agent.invoke("stream")
    assert (streamed.body, streamed.headers["Content-Type"], streamed.error) == (b"one,two", "text/x-parts", None)
    broken = agent.invoke("broken")
    assert (broken.error, broken.json) == ("Unhandled", {"errorType": "Half", "errorMessage": "way"})
    assert agent.invoke("late").json == 1
    assert agent.invoke("was late").json == [400, "InvalidRequestID"]
    failed = agent.invoke("other")
    assert (failed.error, failed.json["errorType"]) == ("Unhandled", "Custom.Error")


def test_a_bootstrap_that_cannot_run(agents):
    agent = agents.start(runtime="provided", handler="x.y", files={"bootstrap": "#!/no/such/interpreter\n"})
    reply = agent.invoke()
    assert reply.json["errorType"] == "Runtime.ExitError"
    assert "exit status 127" in reply.json["errorMessage"]
    assert "cannot be started" in agent.log


def test_many_connections(agents):
    agent = agents.start(ECHO)
    agent.ready()
    connections = [http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10) for _ in range(200)]
    for connection in connections:
        connection.request("POST", wire.INVOKE_PATH, b"1")
    statuses = []
    for connection in connections:
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        connection.close()
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
