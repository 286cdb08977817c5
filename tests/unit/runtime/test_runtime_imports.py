"""httptools for the agent: without `typing` where it can be had so, and as usual where it cannot."""

import subprocess
import sys
from pathlib import Path

import pytest

PARSES = """
import sys
{before}
from kappa_runtime.imports import load_http_parser
http_parser = load_http_parser()
class Seen:
    def on_url(self, url): print(url.decode())
http_parser.HttpRequestParser(Seen()).feed_data(b"GET /here HTTP/1.1\\r\\n\\r\\n")
print("typing" in sys.modules)
try:
    http_parser.HttpRequestParser(Seen()).feed_data(b"no request\\r\\n\\r\\n")
except http_parser.HttpParserError:
    print("refused")
import typing
print(typing.Optional[int] == typing.Union[int, None])
"""
OTHER_VERSION = """
class HttpParserError(Exception): pass
class HttpParserUpgrade(Exception): pass
class HttpRequestParser:
    def __init__(self, seen): self.seen = seen
    def feed_data(self, data):
        if not data.startswith(b"GET "): raise HttpParserError
        self.seen.on_url(data.split()[1])
"""


def said(before: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PARSES.format(before=before)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_parses_without_typing_which_others_get_whole() -> None:
    assert said() == ["/here", "False", "refused", "True"]


def test_where_typing_is_loaded_it_is_used() -> None:
    assert said("import typing") == ["/here", "True", "refused", "True"]


@pytest.mark.parametrize("wants", ["from typing import Final", "import typing; typing.TypeVar"])
def test_a_version_that_wants_more_of_typing_gets_all_of_it(tmp_path: Path, wants: str) -> None:
    package = tmp_path / "httptools"
    package.mkdir()
    (package / "__init__.py").write_text(wants + OTHER_VERSION)
    assert said(f"sys.path.insert(0, {str(tmp_path)!r})") == ["/here", "True", "refused", "True"]
