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
    path = kubeconfig or os.environ.get("KUBECONFIG") or ""
    default = Path.home() / ".kube" / "config"
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    source = path or ("the pod's service account" if in_pod else str(default))
    if not path and not in_pod and not await asyncio.to_thread(default.exists):
        raise NoCluster(
            f"no Kubernetes is configured: KUBECONFIG is not set, {default} does not exist, and this is not a pod. "
            "Set KUBECONFIG, or run functions without a cluster: kappa local up PATH"
        )
    try:
        if in_pod and not path:
            load_incluster_config(client_configuration=configuration)
        else:
            await load_kube_config(path or str(default), client_configuration=configuration, persist_config=False)
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        raise NoCluster(f"the Kubernetes configuration of {source} cannot be used: {error}") from error
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
