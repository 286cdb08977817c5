"""A warm pool's Deployment: a pure function, the same text for the same input."""

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
"""A running pod's grace period cannot be changed, so it is the longest that any function needs; a free pod ends at once."""


def pool_deployment(
    namespace: str, runtime: str, replicas: int, platform: Platform, settings: PoolSettings
) -> Manifest:
    """The Deployment of `replicas` free pods. Raises `KeyError` if the platform has no such runtime."""
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
    """The labels by which a pool knows its pods: what a pod loses when a function takes it over."""
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
        # As in a function's own pod, so that resizing it and reading its log are the same.
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
    """What a pod that was taken from a pool is resized to: the function's own memory and cpu.

    Free pods are Burstable, and a resize may not make them Guaranteed: where memory and cpu both have limits that would be
    the requests, the request of memory is 1 MiB less.
    """
    spec = function.spec
    limits = {"memory": spec.memory}
    if not spec.cpu:
        return {"requests": dict(limits), "limits": limits}
    limits["cpu"] = spec.cpu
    return {"requests": {**limits, "memory": f"{mebibytes(spec.memory) - 1}Mi"}, "limits": limits}
