"""A pool's Deployment: a pure function with the same output for the same input."""

import copy
import math
from typing import Final

from kappa_core import names, wire
from kappa_core.containers import CONTAINER_SECURITY, STOP_DELAY, Manifest, Platform, ready_probe
from kappa_core.durations import mebibytes, parse_duration
from kappa_core.function import Function
from kappa_core.function.spec import MAX_TIMEOUT
from kappa_core.manifests import GRACE_MARGIN_SECONDS, POD_SECURITY
from kappa_core.pool import PoolSettings

MEMORY_REQUEST: Final = "32Mi"
GRACE_SECONDS: Final = (
    math.ceil(parse_duration(MAX_TIMEOUT)) + GRACE_MARGIN_SECONDS + math.ceil(wire.KEPT_DRAIN_SECONDS)
)
"""The longest grace period that any function needs, as a running pod's cannot be changed. A free pod stops at once."""


def pool_deployment(
    namespace: str, runtime: str, replicas: int, platform: Platform, settings: PoolSettings
) -> Manifest:
    """The Deployment of a pool of `replicas` pods. Raises `KeyError` if the platform does not have the runtime."""
    labels = pool_labels(runtime, settings.operator)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": pool_deployment_name(runtime, settings.operator),
            "namespace": namespace,
            "labels": labels,
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector(runtime, settings.operator)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": 120,
            "template": {
                "metadata": {
                    "labels": dict(labels),
                    "annotations": {
                        names.ANNOTATION_CONCURRENCY: "1",
                        names.ANNOTATION_PORT: str(names.AGENT_PORT),
                        names.ANNOTATION_PROTOCOL: "lambda",
                    },
                },
                "spec": {
                    "containers": [_container(runtime, platform, settings)],
                    "securityContext": copy.deepcopy(POD_SECURITY),
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "enableServiceLinks": False,
                    "automountServiceAccountToken": False,
                },
            },
        },
    }


def pool_deployment_name(runtime: str, operator: str = "") -> str:
    return f"{names.pool_name(runtime)}-{operator}" if operator else names.pool_name(runtime)


def selector(runtime: str, operator: str = "") -> dict[str, str]:
    """The labels that select a pool's pods. A pod loses them when it becomes a function's."""
    return {names.LABEL_POOL: runtime, **({names.LABEL_OPERATOR: operator} if operator else {})}


def pool_labels(runtime: str, operator: str = "") -> dict[str, str]:
    return {
        **selector(runtime, operator),
        names.LABEL_NAME: names.pool_name(runtime),
        names.LABEL_COMPONENT: names.COMPONENT_POOL,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }


def _container(runtime: str, platform: Platform, settings: PoolSettings) -> Manifest:
    image = platform.runtimes[runtime]
    container: Manifest = {
        # The same name as in a function's own pod, so that resizing it and reading its log work alike.
        "name": names.CONTAINER_FUNCTION,
        "image": image.image,
        "env": [
            {"name": "KAPPA_POOL", "value": "1"},
            {"name": "KAPPA_RUNTIME", "value": runtime},
            {"name": "KAPPA_POOL_PUBLIC_KEY", "value": settings.public_key},
            {"name": "KAPPA_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "KAPPA_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
        "ports": [{"name": "http", "containerPort": names.AGENT_PORT}],
        "readinessProbe": ready_probe(),
        "lifecycle": copy.deepcopy(STOP_DELAY),
        "resources": {"requests": {"memory": MEMORY_REQUEST}, "limits": {"memory": settings.memory_limit}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": copy.deepcopy(CONTAINER_SECURITY),
    }
    if settings.preload is not None:
        container["env"].append({"name": "KAPPA_POOL_PRELOAD", "value": ",".join(settings.preload)})
    if image.pull_policy is not None:
        container["imagePullPolicy"] = image.pull_policy
    return container


def resources(function: Function) -> Manifest:
    """The function's own memory and cpu, to which a pod from a pool is resized.

    Pool pods are Burstable, and Kubernetes does not let a resize make them Guaranteed. So where memory and cpu both
    have limits, the memory request is 1 MiB below its limit.
    """
    spec = function.spec
    limits = {"memory": spec.memory}
    if not spec.cpu:
        return {"requests": dict(limits), "limits": limits}
    limits["cpu"] = spec.cpu
    return {"requests": {**limits, "memory": f"{mebibytes(spec.memory) - 1}Mi"}, "limits": limits}
