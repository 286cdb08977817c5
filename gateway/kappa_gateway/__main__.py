"""`python -m kappa_gateway`: the gateway of a cluster, settings from the environment."""

import sys

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from kappa_core import logs
from kappa_gateway.main import serve
from kappa_gateway.pods.warm.signing import BadKey
from kappa_gateway.queue.protocol import QueueMisconfigured
from kappa_gateway.settings import Settings


def main() -> int:
    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        for line in _problems(error):
            print(f"the gateway's settings cannot be used: {line}", file=sys.stderr)  # noqa: T201 - logs are not set up yet
        return 2
    logs.configure(settings.log_level, settings.log_format)
    from kappa_gateway.cluster import KubernetesBackend
    from kappa_kube.errors import NoCluster

    try:
        backend = KubernetesBackend(
            settings.namespaces,
            pools=settings.has_pool_key,
            peers=(settings.pool_peers_namespace, settings.pool_peers_selector)
            if settings.pool_peers_namespace
            else None,
        )
        uvloop.run(serve(settings, backend))
    except (NoCluster, QueueMisconfigured, BadKey, OSError) as error:
        print(f"the gateway cannot start: {error}", file=sys.stderr)  # noqa: T201 - for a person, as above
        return 1
    return 0


def _problems(error: ValidationError | SettingsError) -> list[str]:
    """One line for each variable that is wrong, by its name."""
    if isinstance(error, SettingsError):
        return [f'{error}; a list is written as JSON, such as \'["team-a", "team-b"]\'']
    prefix = Settings.model_config["env_prefix"]
    return [
        f"{prefix}{'_'.join(map(str, problem['loc'])).upper()}={problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    ]


if __name__ == "__main__":
    sys.exit(main())
