"""The Kubernetes backend: Functions and their pods, by list and watch.

`backend` is what the gateway runs; `reflector` lists and watches one resource in one scope; `table` keeps what was seen
and tells the sink the difference; `reduction` makes a `backend.Pod` of a pod's JSON; `api` is the connection.
"""

from kappa_gateway.kubernetes.api import NoCluster
from kappa_gateway.kubernetes.backend import KubernetesBackend

__all__ = ["KubernetesBackend", "NoCluster"]
