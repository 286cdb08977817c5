"""Code in a zip, fetched when the agent starts."""

import hashlib
import http.server
import io
import os
import threading
import zipfile

import pytest


class Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        assert self.server.held.wait(30)
        status, body = self.server.files.get(self.path, (404, b"no such key"))
        if self.path in self.server.flaky:
            self.server.flaky.remove(self.path)
            status = 503
        if status == 302:
            self.send_response(302)
            self.send_header("Location", body)
            self.end_headers()
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as serving:
        serving.files = {}
        serving.flaky = set()
        serving.asked = []
        serving.held = threading.Event()
        serving.held.set()
        serving.url = f"http://127.0.0.1:{serving.server_address[1]}"
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


GOOD = zipped(
    {"main.py": "from lib import value\ndef handler(event, context):\n    return value.X\n", "lib/value.py": "X = 42\n"}
)


def start(agents, url, body, **config):
    sha256 = hashlib.sha256(body).hexdigest()
    return agents.start(**{"code_archive_url": url, "code_archive_sha256": sha256, **config})


def test_an_archive_is_fetched_and_run(agents, server):
    server.files["/code.zip?X-Amz-Signature=abc"] = (200, GOOD)
    agent = start(agents, f"{server.url}/code.zip?X-Amz-Signature=abc", GOOD)
    assert agent.ready().status == 200
    assert agent.invoke().json == 42


def test_redirects_and_failures_that_pass(agents, server):
    server.files["/code.zip"] = (200, GOOD)
    server.files["/old.zip"] = (302, "/code.zip")
    server.flaky |= {"/code.zip", "/old.zip"}
    assert start(agents, f"{server.url}/old.zip", GOOD).invoke().json == 42


def test_s3(agents, server):
    server.files["/bucket/path/code.zip"] = (200, GOOD)
    agent = start(
        agents,
        "s3://bucket/path/code.zip",
        GOOD,
        env={"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"},
    )
    assert agent.invoke().json == 42
    missing = start(
        agents,
        "s3://bucket/nothing.zip",
        GOOD,
        env={"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"},
    )
    ready = missing.ready()
    assert ready.json["errorType"] == "Kappa.CodeUnreadable"
    assert "no such object" in ready.json["errorMessage"]


@pytest.mark.parametrize(
    ("status", "body", "sha256", "message"),
    [
        (404, b"", None, "HTTP 404"),
        (403, b"", None, "HTTP 403"),
        (200, GOOD, "0" * 64, "has SHA-256"),
        (200, b"no zip at all", None, "no zip file"),
        (200, GOOD[:-30], None, "no zip file"),
        (200, zipped({"../out.py": "x"}), None, "leads out of the task root"),
        (200, zipped({"/etc/out.py": "x"}), None, "leads out of the task root"),
    ],
)
def test_an_archive_that_cannot_be_used(agents, server, status, body, sha256, message):
    server.files["/code.zip?secret"] = (status, body)
    agent = start(agents, f"{server.url}/code.zip?secret", body, **({"code_archive_sha256": sha256} if sha256 else {}))
    ready = agent.ready()
    assert (ready.status, ready.json["errorType"]) == (503, "Kappa.CodeUnreadable")
    assert message in ready.json["errorMessage"]
    assert "secret" not in ready.json["errorMessage"]
    reply = agent.invoke()
    assert (reply.error, reply.json["errorType"]) == ("Unhandled", "Kappa.CodeUnreadable")
    assert not (agents.folder / "out.py").exists()


def test_it_is_fetched_again_by_the_next_invocation(agents, server):
    agent = start(agents, f"{server.url}/code.zip", GOOD)
    assert agent.ready().json["errorType"] == "Kappa.CodeUnreadable"
    server.files["/code.zip"] = (200, GOOD)
    assert agent.invoke().json == 42
    assert agent.ready().status == 200


COPY = "/v1/code/hash"


def test_a_gateways_copy_is_taken_and_its_own_url_not_asked(agents, server):
    server.files[COPY] = (200, GOOD)
    # the function's own proxy does not lead to a gateway
    env = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    agent = start(agents, f"{server.url}/gone.zip", GOOD, code_archive_copy=f"{server.url}{COPY}", env=env)
    assert agent.invoke().json == 42


@pytest.mark.parametrize("wrong", ["dropped", "another", "cut short", "gateway gone", "busy"])
def test_without_the_gateways_copy_its_own_url_is_as_good(agents, server, wrong):
    server.files["/code.zip"] = (200, GOOD)
    server.files |= {"another": {COPY: (200, b"x" * 3_000_000)}, "cut short": {COPY: (200, GOOD[:-30])}}.get(wrong, {})
    server.flaky |= {COPY} if wrong == "busy" else set()
    gateway = "http://127.0.0.1:9" if wrong == "gateway gone" else server.url
    agent = start(agents, f"{server.url}/code.zip", GOOD, code_archive_copy=f"{gateway}{COPY}")
    assert agent.invoke().json == 42


def test_an_archive_that_is_nowhere_is_told_of_by_its_own_url(agents, server):
    agent = start(agents, f"{server.url}/code.zip?secret", GOOD, code_archive_copy=f"{server.url}{COPY}")
    message = agent.ready().json["errorMessage"]
    assert f"{server.url}/code.zip cannot be fetched: HTTP 404" in message
    assert COPY not in message


def descriptors(agent):
    return os.listdir(f"/proc/{agent.process.pid}/fd")


S3_ENV = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize("url", ["{server}/code.zip", "s3://bucket/code.zip"])
def test_a_pool_pod_fetches_as_others_do_and_goes_on_as_it_was(agents, server, url, wait_until):
    server.files |= {"/code.zip": (200, GOOD), "/bucket/code.zip": (200, GOOD)}
    agent = agents.start_pool()
    before = descriptors(agent)
    sha256 = hashlib.sha256(GOOD).hexdigest()
    config = {"code_archive_url": url.format(server=server.url), "code_archive_sha256": sha256}
    reply = agent.specialize("", {}, env={"AWS_ENDPOINT_URL": server.url, **S3_ENV}, **config)
    assert reply.json == 42
    assert agent.invoke().json == 42
    assert len(agent.runtimes()) == 1
    # its Runtime API's connection and its process's output come and go with their process
    wait_until(lambda: len(descriptors(agent)) <= len(before), "it has closed what it opened")
    assert agent.stop() == 0


def test_a_pool_pod_that_is_told_to_stop_ends_its_fetching(agents, server, wait_until):
    server.files["/code.zip"] = (200, GOOD)
    server.held.clear()
    agent = agents.start_pool()
    config = {"code_archive_url": f"{server.url}/code.zip", "drain_timeout": 0.5}
    replies = []
    caller = threading.Thread(target=lambda: replies.append(agent.specialize("", {}, **config)))
    caller.start()
    wait_until(lambda: server.asked, "it fetches")
    assert len(agent.runtimes()) == 2, "the one that waits, and the one that fetches"
    assert agent.stop() == 0
    caller.join(10)
    assert "drain timeout" in replies[0].json["errorMessage"]
    server.held.set()
