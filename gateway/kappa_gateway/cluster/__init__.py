"""Kubernetes objects → the gateway's functions and pods: the gateway's backend in a cluster.

It may import `kappa_kube`, which lists and watches, and `kappa_gateway.pods.platform`, whose protocols it implements.

- `backend`: what runs, and which resources it follows.
- `functions`, `pods`, `peers`: what is read of each resource, and how the sink hears of it.
- `reduction`: a pod's JSON → `backend.Pod` or `backend.PoolPod`, pure.
"""

from kappa_gateway.cluster.backend import KubernetesBackend

__all__ = ["KubernetesBackend"]
