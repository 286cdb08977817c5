"""The server to which the functions of the chaos tests report their runs. It is never killed.

Also runs in a pod, from a ConfigMap: standard library only. `POST /start` {run, id, function, pod, at} is answered with
how many runs of the event `id` have `failed`; `POST /end` {run, ok, at}; `GET /runs` is a list of all. `at` is the time
of the function's own clock, in seconds since the epoch: this server may be busy, and a time noted here could make a run
appear to follow its pod's death.

usage: chaos_collector.py [PORT]; prints the port that it listens on
"""

import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

lock = threading.Lock()
runs: dict[str, dict[str, Any]] = {}
failed: Counter[str] = Counter()


def start(run: str, at: float, **said: str) -> dict[str, Any]:
    with lock:
        runs.setdefault(run, {"run": run, **said, "start": at, "end": None, "ok": None})
        return {"failed": failed[said["id"]]}


def end(run: str, ok: bool, at: float) -> dict[str, Any]:
    with lock:
        one = runs[run]
        if one["end"] is None:
            one.update(end=at, ok=ok)
            failed[one["id"]] += not ok
        return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the answer in one piece
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(start(**said) if self.path == "/start" else end(**said))

    def do_GET(self) -> None:
        with lock:
            everything = list(runs.values())
        self._answer(everything)

    def _answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A function that is killed leaves half a request, which is not worth reporting."""


if __name__ == "__main__":
    server = Server(("", int(sys.argv[1]) if sys.argv[1:] else 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
