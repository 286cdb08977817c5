"""Events whose gateway goes away: the agent keeps their answers, and runs none of them twice."""

import contextlib
import random
import socket
import threading
import time
from collections import Counter

import pytest

from kappa_core import wire
from kappa_runtime.agent.drain import LINGER

CODE = """
import os, time
def handler(event, context):
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(context.aws_request_id + "\\n")
    time.sleep(event.get("sleep", 0))
    if "fail" in event:
        raise ValueError(event["fail"])
    if "size" in event:
        return "x" * event["size"]
    return {"answer to": context.aws_request_id}
"""


@pytest.fixture
def runs(tmp_path):
    """How often each request id was run."""
    path = tmp_path / "runs"
    path.touch()
    return lambda: Counter(path.read_text().split())


@pytest.fixture
def start(agents, tmp_path):
    def start(**config):
        return agents.start(CODE, env={"RUNS": str(tmp_path / "runs")}, **{"parent_death": False} | config)

    return start


class Gateway:
    """One connection of a gateway's, as raw bytes."""

    def __init__(self, agent):
        self.socket = socket.create_connection(("127.0.0.1", agent.port), timeout=20)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, path, body=b"", headers=None):
        lines = [f"{method} {path} HTTP/1.1", "Host: agent", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def invoke(self, request_id, attempt=1, body=b"{}"):
        self.send("POST", wire.INVOKE_PATH, body, {wire.REQUEST_ID: request_id, wire.ATTEMPT: str(attempt)})

    def ask(self, request_id, attempt=1):
        self.send("GET", f"{wire.KEPT_PATH}{request_id}/{attempt}")

    def answer(self):
        """(status, headers, body), after whatever interim answers there are. `ConnectionError` where it breaks."""
        while True:
            while b"\r\n\r\n" not in self.received:
                self._receive()
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            status = int(first.split()[1])
            if status >= 200:
                break
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["Content-Length"])
        while len(self.received) < length:
            self._receive()
        body, self.received = self.received[:length], self.received[length:]
        return status, headers, body

    def _receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the agent closed the connection")
        self.received += data

    def die(self):
        """As a process that is killed: the kernel closes, or resets where something is not read."""
        self.socket.close()


def asked(agent, request_id, attempt=1):
    """What another gateway gets."""
    with Gateway(agent) as other:
        other.ask(request_id, attempt)
        return other.answer()


def test_the_gateway_dies_while_its_event_runs(start, runs, wait_until):
    agent = start()
    agent.ready()
    gateway = Gateway(agent)
    gateway.invoke("one", body=b'{"sleep": 1.0}')
    wait_until(lambda: runs()["one"], "it runs")
    gateway.die()
    with Gateway(agent) as other:
        other.ask("one")
        assert other.socket.recv(1000) == b"HTTP/1.1 102 Processing\r\n\r\n"
        status, headers, body = other.answer()
    assert (status, body) == (200, b'{"answer to": "one"}')
    assert headers[wire.REQUEST_ID] == "one"
    assert float(headers[wire.DURATION_MS]) >= 1000
    # the other gateway died too: again an orphan
    assert asked(agent, "one")[2] == body
    assert runs() == {"one": 1}


def test_an_answer_is_kept_as_it_was_given(start, runs):
    agent = start()
    for number, event in enumerate((b"{}", b'{"fail": "with this"}', b'{"size": 3000000}')):
        gateway = Gateway(agent)
        gateway.invoke(f"id-{number}", attempt=number + 1, body=event)
        given = gateway.answer()
        gateway.die()
        assert asked(agent, f"id-{number}", number + 1) == given
        assert (wire.FUNCTION_ERROR in given[1]) == (number == 1)
    assert set(runs().values()) == {1}


def test_an_answer_that_was_being_written_is_kept(start, runs, wait_until):
    agent = start()
    gateway = Gateway(agent)
    gateway.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    gateway.invoke("large", body=b'{"size": 5000000}')
    assert gateway.socket.recv(100)
    gateway.die()
    assert len(asked(agent, "large")[2]) == 5_000_002
    assert runs() == {"large": 1}


def test_the_next_request_on_the_connection_says_that_it_was_seen_to(start):
    agent = start()
    with Gateway(agent) as gateway:
        gateway.invoke("one")
        gateway.answer()
        assert asked(agent, "one")[0] == 200
        gateway.invoke("two")
        gateway.answer()
        status, headers, body = asked(agent, "one")
        assert (status, headers["Content-Type"]) == (404, "application/json")
        assert b"nothing is known of attempt 1 of one" in body
        assert asked(agent, "two")[0] == 200
        gateway.send("GET", wire.HEALTH_PATH)
        gateway.answer()
        assert asked(agent, "two")[0] == 404


def test_over_a_connection_that_looked_for_it_too(start):
    agent = start()
    gateway = Gateway(agent)
    gateway.invoke("one")
    gateway.answer()
    gateway.die()
    with Gateway(agent) as other:
        other.ask("one")
        first = other.answer()
        # asking again is not seeing to it
        other.ask("one")
        assert other.answer() == first
        assert asked(agent, "one")[0] == 200
        other.send("GET", wire.HEALTH_PATH)
        other.answer()
    assert asked(agent, "one")[0] == 404


def test_a_last_request_says_so_before_a_connection_closes(start, wait_until):
    agent = start()
    gateway = Gateway(agent)
    gateway.invoke("one")
    gateway.answer()
    gateway.send("DELETE", f"{wire.KEPT_PATH}one/1", headers={"Connection": "close"})
    gateway.die()
    wait_until(lambda: asked(agent, "one")[0] == 404, "it is forgotten")


@pytest.mark.parametrize("path", ["one/1", "one/2", "two/1", "one/", "one", "", "/1", "one/1/1", "one/x", "%6fne/1"])
def test_what_is_not_known(start, path):
    agent = start()
    reply = agent.request("GET", wire.KEPT_PATH + path)
    assert (reply.status, reply.json["errorType"]) == (404, "NotKept")
    assert agent.request("DELETE", wire.KEPT_PATH + path).json == {"forgotten": False}
    assert agent.request("POST", wire.KEPT_PATH + path, b"1").status == 405


def test_the_same_attempt_again_is_not_run_again(start, runs, wait_until):
    agent = start(concurrency=1)
    agent.ready()
    with contextlib.ExitStack() as stack:
        gateways = [stack.enter_context(Gateway(agent)) for _ in range(4)]
        gateways[0].invoke("one", body=b'{"sleep": 0.3}')
        wait_until(lambda: runs()["one"], "it runs")
        for gateway in gateways[1:]:
            gateway.invoke("one", body=b'{"sleep": 0.3}')
        # the one slot is taken by the first alone
        gateways.append(stack.enter_context(Gateway(agent)))
        gateways[-1].invoke("two")
        assert gateways[-1].answer()[1][wire.REFUSED] == wire.REFUSED_BUSY
        answers = [gateway.answer() for gateway in gateways[:4]]
    assert answers == [answers[0]] * 4
    assert runs() == {"one": 1}
    # another attempt is another run
    with Gateway(agent) as gateway:
        gateway.invoke("one", attempt=2)
        assert gateway.answer()[0] == 200
    assert runs() == {"one": 2}


def test_a_refused_attempt_leaves_nothing(start, runs, wait_until):
    agent = start()
    agent.ready()
    with Gateway(agent) as gateway, Gateway(agent) as second:
        gateway.invoke("one", body=b'{"sleep": 0.3}')
        wait_until(lambda: runs()["one"], "it runs")
        second.invoke("two")
        assert second.answer()[0] == 429
        assert asked(agent, "two")[0] == 404
        gateway.answer()
        second.invoke("two")
        assert second.answer()[0] == 200


def test_an_attempt_that_cannot_be_read(start, runs):
    agent = start()
    reply = agent.invoke({}, Kappa_Attempt="first")
    assert (reply.status, reply.json["errorMessage"]) == (400, "Kappa-Attempt: a whole number from 1")
    assert not runs()


def test_a_synchronous_invocation_is_not_kept(start, runs):
    agent = start()
    for _ in range(2):
        assert agent.invoke({}, Kappa_Request_Id="one").status == 200
    assert asked(agent, "one")[0] == 404
    assert runs() == {"one": 2}


def test_a_timeout_and_a_crash_are_kept_like_any_answer(start, runs):
    agent = start(timeout=0.5)
    gateway = Gateway(agent)
    gateway.invoke("slow", body=b'{"sleep": 60}')
    gateway.die()
    status, headers, body = asked(agent, "slow")
    assert (status, headers[wire.FUNCTION_ERROR]) == (200, "Unhandled")
    assert b"Sandbox.Timedout" in body
    assert runs() == {"slow": 1}


def test_many_answers_stay_within_the_memory(start, wait_until):
    agent = start(memory_mib=32)
    for number in range(8):
        gateway = Gateway(agent)
        gateway.invoke(f"id-{number}", body=b'{"size": 500000}')
        gateway.answer()
        gateway.die()
    # two MiB: the last four, less what surrounds them
    assert [asked(agent, f"id-{number}")[0] for number in range(8)] == [404] * 4 + [200] * 4
    wait_until(lambda: "had handled them: 1. All kept answers may take 2.0 MiB" in agent.log, "it says so")


# -- stopping


def stays(agent):
    """Longer than a stopping agent without events does: that it does not end shows in no other way."""
    time.sleep(LINGER + 0.3)
    assert agent.process.poll() is None


def test_a_stopping_agent_waits_for_whoever_takes_over(start, runs, wait_until):
    agent = start()
    agent.ready()
    gateway = Gateway(agent)
    gateway.invoke("one", body=b'{"sleep": 0.3}')
    wait_until(lambda: runs()["one"], "it runs")
    gateway.die()
    agent.terminate()
    wait_until(lambda: not agent.runtimes(), "the function has ended")
    stays(agent)
    assert agent.invoke({}).status == 503
    with Gateway(agent) as other:
        other.ask("one")
        assert other.answer()[2] == b'{"answer to": "one"}'
        other.invoke("one")
        assert other.answer()[2] == b'{"answer to": "one"}'
        # not seen to yet
        assert agent.request("GET", wire.HEALTH_PATH).status == 200
        other.send("DELETE", f"{wire.KEPT_PATH}one/1", headers={"Connection": "close"})
        assert other.answer()[2] == b'{"forgotten": true}'
    assert agent.process.wait(5) == 0
    assert runs() == {"one": 1}


def test_a_stopping_agent_gives_its_gateway_the_time_to_see_to_the_last_event(start, runs, wait_until):
    agent = start()
    agent.ready()
    with Gateway(agent) as gateway:
        gateway.invoke("one", body=b'{"sleep": 0.3}')
        wait_until(lambda: runs()["one"], "it runs")
        agent.terminate()
        _, headers, _ = gateway.answer()
        assert "Connection" not in headers
        stays(agent)
        assert asked(agent, "one")[0] == 200
        gateway.send("DELETE", f"{wire.KEPT_PATH}one/1", headers={"Connection": "close"})
        assert gateway.answer()[2] == b'{"forgotten": true}'
    assert agent.process.wait(5) == 0


def test_where_all_was_seen_to_stopping_takes_no_time(start):
    agent = start()
    with Gateway(agent) as gateway:
        for number in range(3):
            gateway.invoke(f"id-{number}")
            gateway.answer()
        gateway.send("DELETE", f"{wire.KEPT_PATH}id-2/1", headers={"Connection": "close"})
        gateway.answer()
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 1


def test_in_local_mode_nobody_could_come(start):
    agent = start(parent_death=True)
    gateway = Gateway(agent)
    gateway.invoke("one")
    gateway.answer()
    gateway.die()
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 2


# -- chaos


@pytest.mark.parametrize("seed", [1, 2])
def test_whoever_dies_each_attempt_runs_once_and_its_answer_is_found(start, runs, seed):
    agent = start(concurrency=3)
    agent.ready()
    lost, wrong = [], []

    def check(request_id, status, body):
        if status != 200 or body != b'{"answer to": "%b"}' % request_id.encode():
            wrong.append((request_id, status, body))

    def call(worker):
        chosen = random.Random(seed * 100 + worker)
        gateway = Gateway(agent)
        for number in range(40):
            request_id = f"{worker}-{number}"
            kills = chosen.choice(["none", "none", "sent", "soon", "answered", "late"])
            body = b'{"sleep": %.3f}' % chosen.choice([0, 0, 0.01, 0.03])
            while True:
                try:
                    gateway.invoke(request_id, body=body)
                    if kills == "none":
                        status, _, answer = gateway.answer()
                        if status == 429:
                            time.sleep(chosen.random() * 0.01)
                            continue
                        check(request_id, status, answer)
                        break
                    if kills == "soon":
                        time.sleep(chosen.random() * 0.02)
                    elif kills == "answered":
                        status = gateway.answer()[0]
                        if status == 429:
                            continue
                    elif kills == "late":
                        # read a little of it
                        gateway.socket.recv(chosen.randrange(1, 40))
                    gateway.die()
                    gateway = Gateway(agent)
                    status, answer = take_over(gateway, chosen, request_id, body)
                    check(request_id, status, answer)
                    break
                except OSError as error:
                    lost.append((request_id, repr(error)))
                    gateway = Gateway(agent)
                    break
        gateway.die()

    def take_over(gateway, chosen, request_id, body):
        """As another gateway: look for it. If it is not known, it was refused or is still on its way: send it again.
        Now and then without looking."""
        for _ in range(500):
            status = 404
            if chosen.random() < 0.6:
                gateway.ask(request_id)
                status, _, answer = gateway.answer()
            if status == 404:
                gateway.invoke(request_id, body=body)
                status, _, answer = gateway.answer()
            if status == 200:
                return status, answer
            time.sleep(chosen.random() * 0.01)
        return 0, b"never"

    workers = [threading.Thread(target=call, args=(worker,)) for worker in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not lost
    assert not wrong
    assert runs() == {f"{worker}-{number}": 1 for worker in range(6) for number in range(40)}
    # every slot is free, and nothing runs on
    replies = [agent.invoke({}) for _ in range(3)]
    assert [reply.status for reply in replies] == [200] * 3
