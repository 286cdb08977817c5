"""The ways to start a runtime process, behind one protocol, with pipes and without processes."""

import marshal
import os
from pathlib import Path
from typing import Any

import pytest

from kappa_core.agent_config import AgentConfig
from kappa_runtime.start import prepared, spawn
from kappa_runtime.start.child import Child
from kappa_runtime.start.code import FunctionCode
from kappa_runtime.start.prepared import Prepared, PreparedChild


class Later:
    """A `Starter` that counts."""

    def __init__(self) -> None:
        self.ports: list[int] = []

    def start(self, api_port: int) -> Child:
        self.ports.append(api_port)
        return Child(len(self.ports), -1, 0.0)


class Source:
    def __init__(self, child: Child | None) -> None:
        self.child = child
        self.orders: list[bytes] = []

    def take(self, content: bytes) -> Child | None:
        self.orders.append(content)
        return self.child


@pytest.fixture
def pipe() -> Any:
    ends = prepared.order_pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


def child_of(write_end: int) -> PreparedChild:
    return PreparedChild(Child(7, os.open(os.devnull, os.O_RDONLY), 0.0), write_end)


def starter(source: Source, later: Later, tmp_path: Path) -> Prepared:
    config = AgentConfig(function_name="f", handler="main.handler", code_inline="x = 1", task_root=str(tmp_path))
    code: Any = FunctionCode(config, {}, lambda env, parent_death: pytest.fail("nothing is to be fetched"))
    return Prepared(source, config, {"GREETING": "hi"}, code, later)


def test_a_process_that_was_begun_is_the_first_one() -> None:
    begun, later = Child(99, -1, 0.0), Later()
    one = spawn.Begun(begun, later)
    assert one.start(9001) is begun
    assert [one.start(9002).pid, one.start(9001).pid] == [1, 2]
    assert later.ports == [9002, 9001]


def test_a_prepared_process_gets_code_and_order_and_is_the_first_one(tmp_path: Path) -> None:
    child, later = Child(99, -1, 0.0), Later()
    source = Source(child)
    one = starter(source, later, tmp_path)
    assert one.start(9001) is child
    assert (tmp_path / "main.py").read_text() == "x = 1"
    variables, handler, task_root = marshal.loads(source.orders[0][4:])
    assert (variables["GREETING"], variables["AWS_LAMBDA_RUNTIME_API"]) == ("hi", "127.0.0.1:9001")
    assert (handler, task_root) == ("main.handler", str(tmp_path))
    assert one.start(9001).pid == 1
    assert len(source.orders) == 1


def test_where_none_is_prepared_a_process_is_started(tmp_path: Path) -> None:
    later = Later()
    assert starter(Source(None), later, tmp_path).start(9001).pid == 1


def test_an_order_comes_through_the_pipe(pipe: tuple[int, int]) -> None:
    child = child_of(pipe[1])
    assert child.give(prepared.order({"A": "ü"}, "main.handler", "/var/task"))
    assert prepared.read_order(pipe[0]) == ({"A": "ü"}, "main.handler", "/var/task")
    child.abandon()
    assert prepared.read_order(pipe[0]) is None, "the agent has ended"


def test_an_order_that_the_pipe_does_not_hold_is_not_given(pipe: tuple[int, int]) -> None:
    assert not child_of(pipe[1]).give(bytes(1 << 20))


def test_an_order_to_a_process_that_has_died_is_not_given(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    assert not child_of(pipe[1]).give(b"order")


def test_a_process_that_ended_before_it_read_its_order_never_knew(pipe: tuple[int, int]) -> None:
    child = child_of(pipe[1])
    child.give(b"order")
    assert child.ended_unaware()
    assert not child.ended_unaware(), "the pipe is closed"


def test_a_process_that_read_its_order_knew(pipe: tuple[int, int]) -> None:
    child = child_of(pipe[1])
    child.give(b"order")
    os.read(pipe[0], 10)
    assert not child.ended_unaware()


def test_requests_are_the_functions_once_the_rehearsal_is_over(pipe: tuple[int, int]) -> None:
    child, seen = child_of(pipe[1]), []
    child.when_requests_are_the_functions(lambda: seen.append("function"))
    assert seen == []
    child.rehearsed()
    assert seen == ["function"]
    other = child_of(pipe[1])
    other.rehearsed()
    other.when_requests_are_the_functions(lambda: seen.append("at once"))
    assert seen == ["function", "at once"]
