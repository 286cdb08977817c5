"""The examples and the expected answers of each (`expect.toml`), for local mode and for a cluster.

A request is `invoke = NAME` (Lambda API, with `event`, JSON text) or `url = NAME/PATH?QUERY` (function URL, with
`method`, `headers`, `body`). Expectations of its answer: `status` (default 200), `json`, `text`, `contains`,
`starts_with_hex`, `answer_headers`, `function_error` (the errorType). `at_once = N` sends it N times simultaneously.

With `becomes = STATUS` it is an asynchronous invocation: the answer is 202 with a request id, and the invocation must
end with that status and, where given, with this `result` (JSON text) or `error` (the errorType). `then = {function = …,
result = …}` names a function that its end invokes, and that function's result.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at_once: int
    expect: Mapping[str, Any]

    @property
    def is_event(self) -> bool:
        return "becomes" in self.expect

    def check_outcome(self, outcome: Mapping[str, Any]) -> None:
        """What the gateway says of an asynchronous invocation that has ended."""
        assert outcome["status"] == self.expect["becomes"], outcome
        if "result" in self.expect:
            assert outcome["result"] == json.loads(self.expect["result"]), outcome
        if "error" in self.expect:
            assert outcome["error"]["errorType"] == self.expect["error"], outcome

    def check(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Fails the test where the answer is not the expected one. `headers` finds names in any case."""
        expect = self.expect
        said = f"{self.method} {self.path} was answered {status}: {body[:2000]!r}"
        assert status == expect.get("status", 202 if self.is_event else 200), said
        if "function_error" in expect:
            assert headers.get("X-Amz-Function-Error"), said
            assert json.loads(body)["errorType"] == expect["function_error"], said
        else:
            assert headers.get("X-Amz-Function-Error") is None, said
        if "json" in expect:
            assert json.loads(body) == json.loads(expect["json"]), said
        if "text" in expect:
            assert body.decode() == expect["text"], said
        if "contains" in expect:
            assert expect["contains"] in body.decode(), said
        if "starts_with_hex" in expect:
            assert body.startswith(bytes.fromhex(expect["starts_with_hex"])), said
        for name, value in expect.get("answer_headers", {}).items():
            assert headers.get(name) == value, f"{name}: {headers.get(name)!r}; {said}"


def async_path(function: str, namespace: str = "default") -> str:
    """Where a gateway says what became of a function's asynchronous invocations."""
    return f"/v1/namespaces/{namespace}/functions/{function}/async"


def folders(*, cluster: bool = False) -> list[Path]:
    """Every example, or only those that run without a cluster; `needs = "cluster"` marks the others (their image has
    to be built first)."""
    found = sorted(path.parent for path in EXAMPLES.glob("*/expect.toml"))
    return [folder for folder in found if cluster or "needs" not in _read(folder)]


def _read(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "expect.toml").read_text())


def requests(folder: Path, namespace: str = "default") -> list[Request]:
    """The requests to the example in a folder, whose functions are in `namespace`."""
    found = []
    for entry in _read(folder)["request"]:
        if "invoke" in entry:
            name = entry["invoke"] if namespace == "default" else f"{namespace}.{entry['invoke']}"
            path = f"/2015-03-31/functions/{name}/invocations"
            body = entry.get("event", "{}").encode()
            method = "POST"
        else:
            path = f"/fn/{namespace}/{entry['url']}"
            body = entry.get("body", "").encode()
            method = entry.get("method", "GET")
        headers = dict(entry.get("headers", {}))
        if "becomes" in entry:
            headers["X-Amz-Invocation-Type" if "invoke" in entry else "Kappa-Invocation-Type"] = "Event"
        found.append(Request(method, path, headers, body, entry.get("at_once", 1), entry))
    return found
