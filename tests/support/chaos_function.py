"""The code of the functions of the chaos tests. Each run reports its start and its end to the collector (`COLLECTOR`,
host:port) and works for `WORK` seconds. It fails until its event has failed as often as the event asks for.

A Lambda handler (`main.handler`), and as a script a web server on port 8080.
"""

import http.client
import json
import os
import signal
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# In a pod the agent is process 1, and in local mode the agent is the pod.
POD = socket.gethostname() if "KUBERNETES_SERVICE_HOST" in os.environ else str(os.getppid())
WORK = float(os.environ.get("WORK", "0"))


def report(what: str, **said: object) -> dict[str, Any]:
    """The collector's answer. Tries for 20 s: a run that is not reported would count as no run."""
    deadline = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection(os.environ["COLLECTOR"], timeout=5)
        try:
            connection.request("POST", f"/{what}", json.dumps(said))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            connection.close()


def run(request_id: str, function: str, event: dict[str, Any]) -> dict[str, Any]:
    this = uuid.uuid4().hex
    failed = report("start", run=this, id=request_id, function=function, pod=POD, at=time.time())["failed"]
    time.sleep(WORK)
    ok = failed >= event["fails"]
    report("end", run=this, ok=ok, at=time.time())
    if not ok:
        raise RuntimeError(f"asked to fail {event['fails']} times, and has failed {failed} times before")
    return {"key": event["key"]}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return run(context.aws_request_id, context.function_name, event)


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 200
        try:
            answer: dict[str, Any] = run(self.headers["Kappa-Request-Id"], "web", event)
        except RuntimeError as error:
            status, answer = 500, {"error": str(error)}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # requests that run when it is asked to stop end first


if __name__ == "__main__":
    server = Server(("", 8080), Web)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()
