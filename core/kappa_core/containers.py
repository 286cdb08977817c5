"""A function's containers and their environment: our image, the user's with the agent as a sidecar, or the user's
alone."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kappa_core import names, wire
from kappa_core.agent_config import AgentConfig
from kappa_core.durations import mebibytes
from kappa_core.function import Function

Manifest = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON values."""

CODE_VOLUME: Final = "kappa-code"
DRAIN_MARGIN_SECONDS: Final = 2
"""The agent waits so much longer than the function's timeout for running invocations, whose own timeout ends them
first."""

STOP_DELAY: Final[Manifest] = {"preStop": {"sleep": {"seconds": 1}}}
"""The kernel drops a SIGTERM to PID 1 while that has no handler, and for its first moments PID 1 is the container
runtime's own process. Without this delay a pod that is deleted while it starts would stay for its whole grace period.
That happens whenever a pool pod is adopted in its place."""

HTTP_STOP_DELAY_SECONDS: Final = 5
"""The longest time between a web server's pod being deleted and the server getting SIGTERM."""

CONTAINER_SECURITY: Final[Manifest] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""Together with `POD_SECURITY`: what the *restricted* Pod Security level requires."""

AGENT_RESOURCES: Final[Manifest] = {"requests": {"memory": "48Mi"}, "limits": {"memory": "256Mi"}}
"""Of a sidecar agent. In our own images the agent shares the function's memory."""

AGENT_LISTENS: Final = ("/opt/kappa/bin/python", "-I", "-B", "-m", "kappa_runtime.post_start")
"""Exits when the agent in the same container listens. Until then the kubelet does not start the function's
container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeImage:
    """A language runtime: the image that holds it and the agent."""

    image: str
    pull_policy: str | None = None
    """Kubernetes' imagePullPolicy; None: Kubernetes' default for the image's tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The settings of an installation that manifests need."""

    runtimes: Mapping[str, RuntimeImage] = field(default_factory=dict)
    agent: RuntimeImage | None = None
    """The sidecar agent's image for Lambda images; None: the first runtime's image."""
    region: str = "us-east-1"
    account: str = "000000000000"

    @property
    def agent_image(self) -> RuntimeImage | None:
        return self.agent or next(iter(self.runtimes.values()), None)


class ManifestError(ValueError):
    """The Function names something that this installation does not have. The message is for the Function's author."""


def agent_config(function: Function, platform: Platform) -> AgentConfig:
    """The configuration of the function's agent."""
    spec = function.spec
    return AgentConfig(
        function_name=function.metadata.name,
        function_namespace=function.metadata.namespace,
        runtime=spec.runtime or "",
        handler=spec.handler or "",
        memory_mib=mebibytes(spec.memory),
        timeout=spec.timeout_seconds,
        concurrency=spec.concurrency,
        region=platform.region,
        account=platform.account,
        code_inline=spec.code.inline or "",
        code_archive_url=spec.code.archive.url if spec.code.archive else "",
        code_archive_sha256=spec.code.archive.sha256 if spec.code.archive else "",
        sidecar=spec.code.image is not None,
        drain_timeout=spec.timeout_seconds + DRAIN_MARGIN_SECONDS,
    )


def containers(function: Function, platform: Platform) -> list[Manifest]:
    spec = function.spec
    image = spec.code.image
    if image is None:
        runtime = platform.runtimes.get(spec.runtime or "")
        if runtime is None:
            known = ", ".join(sorted(platform.runtimes)) or "none"
            raise ManifestError(
                f"spec.runtime: there is no runtime {spec.runtime!r} here. Known runtimes: {known}."
                " Set one of them, or bring your own with spec.code.image."
            )
        container = _function_container(function, runtime.image, runtime.pull_policy)
        container["env"] = [*_agent_env(function, platform), *_user_env(function)]
        container["ports"] = [{"name": "http", "containerPort": names.AGENT_PORT}]
        container["readinessProbe"] = ready_probe()
        container["lifecycle"] = copy.deepcopy(STOP_DELAY)
        if spec.code.config_map is not None:
            container["volumeMounts"].insert(0, {"name": CODE_VOLUME, "mountPath": names.TASK_ROOT, "readOnly": True})
        return [_without_empty(container)]
    container = _function_container(function, image.ref, image.pull_policy)
    container.update({"command": image.command, "args": image.args})
    if image.protocol == "http":
        container["env"] = [{"name": "PORT", "value": str(image.port)}, *_user_env(function)]
        container["ports"] = [{"name": "http", "containerPort": image.port}]
        container["readinessProbe"] = {"tcpSocket": {"port": image.port}, "periodSeconds": 1, "failureThreshold": 3}
        # Many servers exit on SIGTERM at once. After the delay gateways no longer send requests, and short ones are
        # answered.
        seconds = min(math.ceil(spec.timeout_seconds), HTTP_STOP_DELAY_SECONDS)
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": seconds}}}
        return [_without_empty(container)]
    container["env"] = [*_lambda_env(function, platform), *_user_env(function)]
    # Both containers get SIGTERM at the same time. This hook delays the function's until the agent has drained.
    container["lifecycle"] = {"preStop": {"httpGet": {"path": wire.DRAIN_PATH, "port": names.AGENT_PORT}}}
    # The kubelet starts containers in order. A Lambda runtime client that finds no Runtime API would exit at once.
    return [_agent_container(function, platform), _without_empty(container)]


def _function_container(function: Function, image: str, pull_policy: str | None) -> Manifest:
    spec = function.spec
    resources = {"memory": spec.memory, **({"cpu": spec.cpu} if spec.cpu else {})}
    return {
        "name": names.CONTAINER_FUNCTION,
        "image": image,
        "imagePullPolicy": pull_policy,
        "envFrom": [source.model_dump(by_alias=True, exclude_defaults=True) for source in spec.env_from],
        "resources": {"requests": resources, "limits": dict(resources)},
        # A crash then says why in the pod's status, and so in the Function's.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [dict(mount) for mount in spec.pod_template.volume_mounts],
        "securityContext": merge(CONTAINER_SECURITY, spec.pod_template.container_security_context),
    }


def _agent_container(function: Function, platform: Platform) -> Manifest:
    agent = platform.agent_image
    if agent is None:
        raise ManifestError(
            "spec.code.image: an image with protocol lambda needs the agent's image beside it, and this installation"
            " names none. Have its administrator set a runtime, or use protocol http."
        )
    return _without_empty(
        {
            "name": names.CONTAINER_AGENT,
            "image": agent.image,
            "imagePullPolicy": agent.pull_policy,
            "env": _agent_env(function, platform),
            "ports": [{"name": "http", "containerPort": names.AGENT_PORT}],
            "readinessProbe": ready_probe(),
            "lifecycle": {"postStart": {"exec": {"command": list(AGENT_LISTENS)}}},
            "resources": copy.deepcopy(AGENT_RESOURCES),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": merge(CONTAINER_SECURITY, function.spec.pod_template.container_security_context),
        }
    )


def ready_probe() -> Manifest:
    """Only rolling updates use it: no request waits for it."""
    probe = {"path": wire.READY_PATH, "port": names.AGENT_PORT}
    return {"httpGet": probe, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 3}


def _agent_env(function: Function, platform: Platform) -> list[Manifest]:
    variables = [
        {"name": name, "value": _literal(value)} for name, value in agent_config(function, platform).to_env().items()
    ]
    pod_name = {"name": "KAPPA_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return [*variables, pod_name]


def _lambda_env(function: Function, platform: Platform) -> list[Manifest]:
    """The variables that Lambda sets in an image. In our own images the agent sets them for its runtime process."""
    spec = function.spec
    values = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{names.RUNTIME_API_PORT}",
        "AWS_LAMBDA_FUNCTION_NAME": function.metadata.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(mebibytes(spec.memory)),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.metadata.name}",
        "AWS_REGION": platform.region,
        "AWS_DEFAULT_REGION": platform.region,
        "LAMBDA_TASK_ROOT": names.TASK_ROOT,
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "_HANDLER": spec.handler or "",
    }
    return [{"name": name, "value": _literal(value)} for name, value in values.items() if value]


def _user_env(function: Function) -> list[Manifest]:
    variables = []
    for variable in function.spec.env:
        entry: Manifest = {"name": variable.name}
        if variable.value_from is not None:
            entry["valueFrom"] = variable.value_from.model_dump(by_alias=True, exclude_defaults=True)
        else:
            entry["value"] = variable.value or ""
        variables.append(entry)
    return variables


def _literal(value: str) -> str:
    """Doubles each dollar sign, as the kubelet expands `$(NAME)` and reads `$$` as one dollar sign."""
    return value.replace("$", "$$")


def merge(defaults: Manifest, overrides: Manifest | None) -> Manifest:
    """`defaults` updated with `overrides`, field by field. A null removes a default."""
    merged = {**copy.deepcopy(defaults), **(overrides or {})}
    return {key: value for key, value in merged.items() if value is not None}


def _without_empty(container: Manifest) -> Manifest:
    return {key: value for key, value in container.items() if value not in (None, [], {})}
