"""What an agent is started with: its configuration, its environment and its code files. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kappa_cli.local.manifests.workload import Workload
from kappa_core import containers
from kappa_core.agent_config import AgentConfig, PoolConfig

_INHERITED: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    }
)


@dataclass(frozen=True, slots=True)
class Launch:
    """An agent's start; its task root, name and pipe are added by `AgentProcess`."""

    config: AgentConfig | PoolConfig
    env: Mapping[str, str] = field(default_factory=dict)
    """The function's variables."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name → content, for the task root."""

    @property
    def has_function(self) -> bool:
        """A spare process has none until a cold start takes it."""
        return isinstance(self.config, AgentConfig)


def for_function(workload: Workload, *, region: str, account: str) -> Launch:
    function = workload.function
    config = containers.agent_config(function, containers.Platform(region=region, account=account)).replace(
        host="127.0.0.1",
        port=0,
        runtime_api_port=0,
        drain_timeout=function.spec.timeout_seconds,
        parent_death=True,
    )
    return Launch(config, workload.env, workload.files)


def for_pool(runtime: str, pod_uid: str, public_key: str) -> Launch:
    """A spare process that trusts the gateway with this public key."""
    return Launch(
        PoolConfig(
            pool_public_key=public_key,
            pod_uid=pod_uid,
            runtime=runtime,
            host="127.0.0.1",
            port=0,
            runtime_api_port=0,
            parent_death=True,
        )
    )


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of this shell that a function gets: paths, locale, proxies and AWS credentials. The others stay
    out, so that a function does not come to depend on a variable that a cluster will not have."""
    return {
        name: value
        for name, value in env.items()
        if name in _INHERITED
        or name.startswith("LC_")
        or (name.startswith("AWS_") and not name.startswith("AWS_LAMBDA_"))
    }
