"""Where the API server's address and the credentials come from: one rule, for every process of Kappa.

1. `KUBECONFIG`, when it is set (several files, separated by `:`, are merged);
2. else the pod's service account, when `KUBERNETES_SERVICE_HOST` is set, as in every pod;
3. else `~/.kube/config`.

The first that applies is used, even when it cannot be read: a typo in KUBECONFIG must not lead to another cluster.
`kubernetes.aio` reads them, exec plugins and OIDC included.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from yaml import YAMLError  # the Kubernetes client depends on it

from kappa_kube.errors import Disconnected, NoCluster

__all__ = ["Configuration", "authorization", "load"]


async def load(kubeconfig: str | None = None) -> Configuration:
    """The configuration by the rule above; the path `kubeconfig` takes the variable's place. Raises `NoCluster`."""
    load_kube_config: Any = config.load_kube_config  # Any: the client does not type its configuration's functions
    load_incluster_config: Any = config.load_incluster_config
    configuration = Configuration()
    default = _default_path()
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    path = kubeconfig or os.environ.get("KUBECONFIG") or ("" if in_pod else default)
    if path and not await asyncio.to_thread(_exists, path):
        if path != default:
            raise NoCluster(f"the Kubernetes configuration {path} does not exist")
        raise NoCluster(
            f"no Kubernetes is configured: KUBECONFIG is not set, {default} does not exist, and this is not a pod. "
            "Set KUBECONFIG, or run functions without a cluster: kappa local up PATH"
        )
    try:
        if path:
            await load_kube_config(path, client_configuration=configuration, persist_config=False)
        else:
            load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        source = path or "of the pod's service account"
        raise NoCluster(f"the Kubernetes configuration {source} cannot be used: {error}") from error
    return configuration


async def authorization(configuration: Configuration) -> str:
    """The value of the header Authorization; empty where the credentials are a client certificate.

    A service account's token is read from its file again every minute. Raises `Disconnected` while it cannot be read.
    """
    try:
        header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    except (config.ConfigException, OSError) as error:
        raise Disconnected(f"the service account's token cannot be read: {error}") from error
    return header or ""


def _default_path() -> str:
    return os.path.expanduser("~/.kube/config")  # Path.home would raise for a user without a home, as in some pods


def _exists(paths: str) -> bool:
    return any(Path(path).exists() for path in paths.split(os.pathsep) if path)
