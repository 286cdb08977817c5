"""How a runtime process is started: its command and its environment variables, as on Lambda.

Imported before anything heavy is, so it imports nothing heavy itself.
Source of the names: AWS Lambda's developer guide, "Defined runtime environment variables".
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappa_core.agent_config import AgentConfig

OWN_PREFIX = "KAPPA_"
"""The agent's own variables: the runtime process does not see them."""
LAMBDA_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin:/opt/bin"
BOOTSTRAP = "bootstrap"


class NoEntrypoint(Exception):
    """There is no program to start: Lambda's `Runtime.InvalidEntrypoint`."""


def is_python(config: AgentConfig) -> bool:
    """Whether Lambda's Python client runs the function, on the agent's own interpreter."""
    return config.runtime.startswith("python") or not config.runtime


def command(config: AgentConfig) -> list[str]:
    """The runtime process's argv.

    `python*` runs Lambda's own Python client on the agent's interpreter; anything else is a custom runtime, whose
    `bootstrap` lies in the task root or in /opt. Raises `NoEntrypoint`.
    """
    if is_python(config):
        # -P: the task root comes first by PYTHONPATH, so it does even where PYTHONSAFEPATH is set
        return [sys.executable, "-P", "-m", "kappa_runtime.start.python_runtime", config.handler]
    candidates = [os.path.join(config.task_root, BOOTSTRAP), os.path.join("/opt", BOOTSTRAP)]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return [candidate]
    raise NoEntrypoint(
        f"Couldn't find valid bootstrap(s): [{' '.join(candidates)}]: the runtime {config.runtime} needs an "
        "executable file of that name (check its mode, chmod +x)"
    )


def variables(config: AgentConfig, own: Mapping[str, str], api_port: int) -> dict[str, str]:
    """The runtime process's environment: the container's own, without Kappa's, and Lambda's on top.

    `own` is the agent's environment; `api_port` the loopback port of this process's Runtime API.
    """
    env = {name: value for name, value in own.items() if not name.startswith(OWN_PREFIX)}
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or config.region
    env.setdefault("AWS_REGION", region)
    env.setdefault("AWS_DEFAULT_REGION", region)
    env.setdefault("PATH", LAMBDA_PATH)
    env.setdefault("LANG", "C.UTF-8")
    env.setdefault("TZ", ":UTC")
    env.setdefault("PYTHONUNBUFFERED", "1")
    if "PYTHONPATH" in env:
        env["PYTHONPATH"] = f"{config.task_root}{os.pathsep}{env['PYTHONPATH']}"
    else:
        env["PYTHONPATH"] = config.task_root
    env.update(
        AWS_LAMBDA_RUNTIME_API=f"127.0.0.1:{api_port}",
        _HANDLER=config.handler,
        LAMBDA_TASK_ROOT=config.task_root,
        LAMBDA_RUNTIME_DIR="/var/runtime",
        AWS_LAMBDA_FUNCTION_NAME=config.function_name,
        AWS_LAMBDA_FUNCTION_VERSION="$LATEST",
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE=str(config.memory_mib),
        AWS_LAMBDA_INITIALIZATION_TYPE="on-demand",
        AWS_LAMBDA_LOG_GROUP_NAME=f"/aws/lambda/{config.function_name}",
        AWS_LAMBDA_LOG_STREAM_NAME=log_stream(config.pod_name or f"{os.getpid():x}", time.time()),
    )
    if config.runtime:
        env["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{config.runtime}"
    env.pop("_X_AMZN_TRACE_ID", None)
    return env


def log_stream(instance: str, now: float) -> str:
    """Lambda's form of a log stream's name: the day it began, the version, the instance."""
    return f"{time.strftime('%Y/%m/%d', time.gmtime(now))}/[$LATEST]{instance}"
