"""What an agent is started with, on Linux and on macOS."""

from kappa_cli.local.manifests.workload import Workload
from kappa_cli.local.processes.launch import for_function, for_pool, inherited
from kappa_cli.local.processes.platforms import agent_environment
from kappa_core.function import Function


def test_a_functions_agent_listens_on_loopback_and_ends_with_its_parent() -> None:
    spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x"}, "timeout": "7s"}
    function = Function.model_validate({"metadata": {"name": "hello"}, "spec": spec})
    launch = for_function(Workload(function, {"A": "1"}, {"main.py": b"x"}), region="eu-west-1", account="1")
    assert (launch.config.host, launch.config.port, launch.config.parent_death) == ("127.0.0.1", 0, True)
    assert (launch.env, launch.files) == ({"A": "1"}, {"main.py": b"x"})
    assert launch.has_function
    assert launch.config.drain_timeout == 7


def test_a_spare_process_has_no_function_yet() -> None:
    launch = for_pool("python3.13", "uid", "key")
    assert (launch.config.host, launch.config.port, launch.config.parent_death) == ("127.0.0.1", 0, True)
    assert not launch.has_function


def test_a_function_gets_paths_locale_proxies_and_credentials_of_the_shell_alone() -> None:
    env = {"PATH": "/bin", "LC_ALL": "C", "https_proxy": "p", "AWS_PROFILE": "a", "AWS_LAMBDA_X": "b", "SECRET": "c"}
    assert inherited(env) == {"PATH": "/bin", "LC_ALL": "C", "https_proxy": "p", "AWS_PROFILE": "a"}


def test_macos_lets_a_forked_process_use_its_frameworks() -> None:
    assert agent_environment("darwin") == {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}
    assert agent_environment("linux") == {}
