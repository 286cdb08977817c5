"""The runtime process's command and environment, and where inline code goes."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import names
from kappa_core.agent_config import AgentConfig
from kappa_runtime.start import code, environment, fork


def config(**values):
    return AgentConfig(**{"function_name": "hello", "runtime": "python3.13", "handler": "main.handler", **values})


def test_a_function_with_python_variables_of_its_own_gets_an_interpreter_of_its_own():
    assert fork.can_fork({"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"})
    assert not fork.can_fork({"PYTHONPATH": "/lib/mine"})
    assert not fork.can_fork({"PYTHONOPTIMIZE": "1"})


def test_the_agents_own_variables_stay_its_own():
    env = environment.variables(config(), {"KAPPA_HANDLER": "x", "KAPPA_SECRET": "y", "MINE": "z"}, 9001)
    assert not [name for name in env if name.startswith("KAPPA_")]
    assert env["MINE"] == "z"
    assert env["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001"


def test_what_the_function_sets_wins_where_lambda_lets_it():
    own = {"TZ": "Europe/Berlin", "PATH": "/mine", "AWS_DEFAULT_REGION": "eu-west-1", "LANG": "C"}
    env = environment.variables(config(), own, 9001)
    assert env["TZ"] == "Europe/Berlin"
    assert env["PATH"] == "/mine"
    assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "eu-west-1"
    forged = environment.variables(config(), {"AWS_LAMBDA_FUNCTION_NAME": "other", "_HANDLER": "evil"}, 9001)
    assert forged["AWS_LAMBDA_FUNCTION_NAME"] == "hello"
    assert forged["_HANDLER"] == "main.handler"


def test_without_a_path_there_is_lambdas():
    assert environment.variables(config(), {}, 1)["PATH"] == environment.LAMBDA_PATH


def test_the_task_root_comes_first():
    assert environment.variables(config(), {}, 1)["PYTHONPATH"] == names.TASK_ROOT
    assert environment.variables(config(), {"PYTHONPATH": "/a:/b"}, 1)["PYTHONPATH"] == f"{names.TASK_ROOT}:/a:/b"


def test_the_log_stream_is_lambdas():
    assert environment.log_stream("pod-1", 1714557600) == "2024/05/01/[$LATEST]pod-1"


def test_python_runs_on_the_agents_interpreter():
    command = [sys.executable, "-P", "-m", "kappa_runtime.start.python_runtime", "main.handler"]
    assert environment.command(config()) == command


def test_a_custom_runtime_needs_its_bootstrap(tmp_path):
    chosen = config(runtime="provided.al2023", task_root=str(tmp_path))
    bootstrap = tmp_path / "bootstrap"
    with pytest.raises(environment.NoEntrypoint, match=str(bootstrap)):
        environment.command(chosen)
    bootstrap.write_text("#!/bin/sh\n")
    with pytest.raises(environment.NoEntrypoint, match="chmod"):
        environment.command(chosen)
    bootstrap.chmod(0o755)
    assert environment.command(chosen) == [str(bootstrap)]


@pytest.mark.parametrize(
    ("handler", "path"),
    [
        ("main.handler", "main.py"),
        ("pkg/mod.handler", "pkg/mod.py"),
        ("pkg.mod.handler", "pkg/mod.py"),
        ("a/b.c.run", "a/b/c.py"),
        ("my-module.run", "my-module.py"),
    ],
)
def test_inline_code_is_saved_as_the_handlers_module(handler, path, tmp_path):
    assert code.module_path(handler) == path
    code.write_inline("x = 'ü'\r\n", handler, str(tmp_path))
    assert (tmp_path / path).read_bytes() == "x = 'ü'\r\n".encode()


def test_inline_code_that_is_there_already_is_not_touched(tmp_path):
    code.write_inline("x = 1", "main.handler", str(tmp_path))
    before = (tmp_path / "main.py").stat()
    code.write_inline("x = 1", "main.handler", str(tmp_path))
    after = (tmp_path / "main.py").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_inline_code_is_replaced_as_a_whole(tmp_path):
    code.write_inline("x = 1", "main.handler", str(tmp_path))
    with (tmp_path / "main.py").open() as reader:
        code.write_inline("y = 22", "main.handler", str(tmp_path))
        assert reader.read() == "x = 1"
    assert (tmp_path / "main.py").read_text() == "y = 22"
    assert [path.name for path in tmp_path.iterdir()] == ["main.py"]


def test_inline_code_that_cannot_be_saved(tmp_path):
    (tmp_path / "main.py").mkdir()
    with pytest.raises(code.CodeUnreadable, match=r"cannot be saved as .*main\.py"):
        code.write_inline("x = 1", "main.handler", str(tmp_path))


@pytest.mark.parametrize(
    "handler", ["", "handler", ".handler", "main.", "../up.handler", "/etc/x.handler", "a//b.c", "a\0b.c"]
)
def test_a_handler_that_names_no_module(handler):
    with pytest.raises(code.CodeUnreadable, match=r"module\.function"):
        code.module_path(handler)


@given(st.text(max_size=40))
def test_no_handler_leads_out_of_the_task_root(handler):
    try:
        path = code.module_path(handler)
    except code.CodeUnreadable:
        return
    assert path.endswith(".py")
    assert not path.startswith("/")
    assert ".." not in path.split("/")
