"""The terminal of local mode."""

import io
import threading

import pytest

from kappa_cli.local.console import MAX_LINE, Console, wants_color


def written(out: io.StringIO, console: Console) -> str:
    console.close()
    return out.getvalue()


def test_lines_carry_the_name_and_line_up() -> None:
    out = io.StringIO()
    console = Console(out)
    console.reserve("checkout")
    console.line("api", "hello")
    console.line("checkout", "world")
    console.say("one\ntwo")
    assert written(out, console) == "api      | hello\ncheckout | world\nkappa    | one\nkappa    | two\n"


def test_colours_differ_by_name_and_are_closed() -> None:
    out = io.StringIO()
    console = Console(out, color=True)
    console.line("a", "x")
    console.line("b", "x")
    first, second = written(out, console).splitlines()
    assert first.startswith("\x1b[36m")
    assert second.startswith("\x1b[33m")
    assert first.endswith("\x1b[0mx")


def test_a_very_long_line_is_cut() -> None:
    out = io.StringIO()
    console = Console(out)
    console.line("a", "x" * (MAX_LINE + 1000))
    text = written(out, console)
    assert "(1,000 more characters)" in text
    assert len(text) < MAX_LINE + 100


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(10)
        return super().write(text)


def test_a_stuck_terminal_holds_nobody_up_and_says_later_what_it_missed() -> None:
    out = Stuck()
    console = Console(out)
    for number in range(20_000):
        console.line("a", str(number))
    out.go.set()
    text = written(out, console)
    assert "lines dropped: the terminal was too slow" in text
    assert "a     | 0\n" in text


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_terminal_that_went_away_is_no_error() -> None:
    out = Gone()
    console = Console(out)
    for _ in range(10):
        console.line("a", "x")
    assert written(out, console) == ""


@pytest.mark.parametrize(
    ("tty", "env", "wanted"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_who_wants_colours(tty: bool, env: dict[str, str], wanted: bool) -> None:
    out = io.StringIO()
    out.isatty = lambda: tty  # type: ignore[method-assign]
    assert wants_color(out, env) is wanted
