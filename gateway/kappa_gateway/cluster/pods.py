"""Functions' pods and pool pods, by one watch: a pool pod that a function claims changes from one to the other."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from kappa_core import names
from kappa_gateway.cluster.reduction import reduce_pod, reduce_pool_pod
from kappa_gateway.pods.platform import Pod, PoolPod, Sink
from kappa_kube.table import Key

logger = logging.getLogger(__name__)


def read(raw: Mapping[str, Any], seen_at: float | None, previous: Pod | PoolPod | None, /) -> Pod | PoolPod | None:
    """A table's reader. JSON that is not a pod of either kind is logged and left out."""
    try:
        labels = raw["metadata"].get("labels") or {}
        if names.LABEL_FUNCTION in labels:
            return reduce_pod(raw, seen_at, previous if isinstance(previous, Pod) else None)
        return reduce_pool_pod(raw) if names.LABEL_POOL in labels else None
    except (KeyError, TypeError, ValueError, AttributeError):
        logger.warning(
            "a pod that cannot be read is left out", exc_info=True, extra={"pod": str(raw.get("metadata"))[:200]}
        )
        return None


class Pods:
    """A table's listener. A pod that a function claimed reaches the sink before it leaves the pool, which confirms the
    claim."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._kinds: dict[Key, type[Pod] | type[PoolPod]] = {}

    def replace(self, pods: Iterable[Pod | PoolPod]) -> None:
        listed = list(pods)
        self._kinds = {(pod.namespace, pod.name): type(pod) for pod in listed}
        self._sink.replace_pods([pod for pod in listed if isinstance(pod, Pod)])
        self._sink.replace_pool_pods([pod for pod in listed if isinstance(pod, PoolPod)])

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
