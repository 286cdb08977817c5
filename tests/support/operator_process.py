"""The operator as a process of its own, and a demand stream whose reports a test chooses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUNTIME = f"{os.environ.get('KAPPA_TEST_REGISTRY', 'kappa')}/runtime-python:{os.environ.get('KAPPA_TEST_TAG', 'dev')}"


class Gateway:
    """A gateway of which there is only the demand stream, with the reports of `say`."""

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.claims: list[dict[str, str]] = []
        self.changed = threading.Condition()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not gateway.closed:
                        report = {
                            "gateway": "test",
                            "full": True,
                            "functions": gateway.functions,
                            "claims": gateway.claims,
                        }
                        self.wfile.write(json.dumps(report).encode() + b"\n")
                        self.wfile.flush()
                        with gateway.changed:
                            gateway.changed.wait(0.5)

            def log_message(self, *_: object) -> None:
                pass

        self.closed = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def say(self, *functions: dict[str, Any], claims: Iterable[dict[str, str]] = ()) -> None:
        self.functions, self.claims = list(functions), list(claims)
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        self.closed = True
        self.say()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Operator:
    """The operator as a process beside the cluster, for the Functions of one namespace that name it."""

    def __init__(self, namespace: str, kubeconfig: str, log: Path, identity: str = "one", **settings: str) -> None:
        self.log = log
        self.out = log.open("w")
        env = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": kubeconfig,
            "KAPPA_OPERATOR_NAME": namespace,
            "KAPPA_OPERATOR_NAMESPACES": json.dumps([namespace]),
            "KAPPA_OPERATOR_NAMESPACE": namespace,
            "KAPPA_OPERATOR_IDENTITY": identity,
            "KAPPA_OPERATOR_HOST": "127.0.0.1",
            "KAPPA_OPERATOR_PORT": "0",
            "KAPPA_OPERATOR_RUNTIMES": json.dumps({"python3.13": {"image": RUNTIME, "pullPolicy": "IfNotPresent"}}),
            **{f"KAPPA_OPERATOR_{key}": value for key, value in settings.items()},
        }
        # From another folder, as an image would: nothing may hang on the repository's root.
        self.process = subprocess.Popen([sys.executable, "-m", "kappa_operator"], env=env, cwd="/", stderr=self.out)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def said(self, message: str) -> bool:
        return any(line["message"] == message for line in self.lines())

    def port(self) -> int:
        port: int = next(line["port"] for line in self.lines() if line["message"].startswith("serving"))
        return port

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.out.close()
