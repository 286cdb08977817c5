"""Functions' pods and pools' pods, which one watch brings: a pod that a function takes over changes from one to the other."""

from collections.abc import Iterable, Mapping
from typing import Any

from kappa_core import names
from kappa_gateway.backend import Pod, PoolPod, Sink
from kappa_gateway.kubernetes.reduction import reduce_pod, reduce_pool_pod
from kappa_gateway.kubernetes.table import Key


def read(raw: Mapping[str, Any], seen_at: float | None, previous: Pod | PoolPod | None) -> Pod | PoolPod | None:
    """Raises `KeyError` and its like for JSON that is no pod of either kind."""
    labels = raw["metadata"].get("labels") or {}
    if names.LABEL_FUNCTION not in labels and names.LABEL_POOL in labels:
        return reduce_pool_pod(raw)
    if names.LABEL_FUNCTION not in labels:
        return None
    return reduce_pod(raw, seen_at, previous if isinstance(previous, Pod) else None)


class Pods:
    """Tells a sink of both; what became a function's first, so that a claim is confirmed before its pod leaves the pool."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._kinds: dict[Key, type[Pod] | type[PoolPod]] = {}

    def replace(self, pods: Iterable[Pod | PoolPod]) -> None:
        given = list(pods)
        self._kinds = {(pod.namespace, pod.name): type(pod) for pod in given}
        self._sink.replace_pods([pod for pod in given if isinstance(pod, Pod)])
        self._sink.replace_pool_pods([pod for pod in given if isinstance(pod, PoolPod)])

    def put(self, pod: Pod | PoolPod) -> None:
        key = (pod.namespace, pod.name)
        before, self._kinds[key] = self._kinds.get(key), type(pod)
        if isinstance(pod, Pod):
            self._sink.put_pod(pod)
            if before is PoolPod:
                self._sink.remove_pool_pod(*key)
        else:
            if before is Pod:
                self._sink.remove_pod(*key)
            self._sink.put_pool_pod(pod)

    def remove(self, namespace: str, name: str) -> None:
        if self._kinds.pop((namespace, name), None) is PoolPod:
            self._sink.remove_pool_pod(namespace, name)
        else:
            self._sink.remove_pod(namespace, name)
