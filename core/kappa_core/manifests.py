"""From a Function to its Deployment: a pure function with the same output for the same input.

The Deployment has no `spec.replicas`: only the scaler writes that. `scaling` and `async`, which only the scaler and the
gateway read, are not in the pod template, so changing them does not roll the pods.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Final

from kappa_core import names, wire
from kappa_core.containers import (
    CODE_VOLUME,
    Manifest,
    ManifestError,
    Platform,
    RuntimeImage,
    agent_config,
    containers,
    merge,
)
from kappa_core.function import Function

__all__ = [
    "Manifest",
    "ManifestError",
    "Platform",
    "RuntimeImage",
    "agent_config",
    "deployment",
    "dial_port",
    "own_labels",
    "owner_reference",
    "pod_template",
    "revision",
    "template_hash",
]

GRACE_MARGIN_SECONDS: Final = 10
"""The grace period is this much longer than the function's timeout. The agent has ended by then, unless it holds a kept
answer for another gateway (`wire.KEPT_DRAIN_SECONDS` more)."""
USER_ID: Final = 1000

POD_SECURITY: Final[Manifest] = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def deployment(function: Function, platform: Platform, code_hash: str | None = None) -> Manifest:
    """The Deployment for `function`, without `spec.replicas`.

    `code_hash` is the hash of mounted code (a ConfigMap's), so that new code rolls the pods. Raises `ManifestError` if
    the platform does not have the runtime.
    """
    metadata = function.metadata
    labels = own_labels(metadata.name)
    template = pod_template(function, platform, code_hash)
    template["metadata"]["annotations"][names.ANNOTATION_REVISION] = template_hash(template)
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.deployment_name(metadata.name),
            "namespace": metadata.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(function)],
        },
        "spec": {
            "selector": {"matchLabels": {names.LABEL_FUNCTION: metadata.name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 120,
            "template": template,
        },
    }
    return manifest


def template_hash(template: Manifest) -> str:
    """The revision of a pod template: sixteen hex digits that change exactly when its pods must be replaced."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def revision(manifest: Manifest) -> str:
    """The revision in the annotations of a Deployment's template, of a pod or of a template; empty if there is none."""
    source = manifest.get("spec", {}).get("template") or manifest
    annotations: Mapping[str, str] = source.get("metadata", {}).get("annotations") or {}
    return annotations.get(names.ANNOTATION_REVISION, "")


def own_labels(function: str) -> dict[str, str]:
    return {
        names.LABEL_FUNCTION: function,
        names.LABEL_NAME: function,
        names.LABEL_COMPONENT: names.COMPONENT_FUNCTION,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }


def owner_reference(function: Function) -> Manifest:
    """`blockOwnerDeletion` is false: true would need update rights on the Function's finalizers."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": function.metadata.name,
        "uid": function.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def grace_period(function: Function) -> int:
    """Seconds from SIGTERM to SIGKILL."""
    seconds = math.ceil(function.spec.timeout_seconds) + GRACE_MARGIN_SECONDS
    return seconds if function.spec.protocol == "http" else seconds + math.ceil(wire.KEPT_DRAIN_SECONDS)


def pod_template(function: Function, platform: Platform, code_hash: str | None = None) -> Manifest:
    """The pod template, without its revision. Raises `ManifestError`, see `deployment`."""
    spec = function.spec
    user = spec.pod_template
    image = spec.code.image
    annotations = dict(user.annotations)
    annotations[names.ANNOTATION_CONCURRENCY] = str(spec.concurrency)
    annotations[names.ANNOTATION_PORT] = str(dial_port(function))
    annotations[names.ANNOTATION_PROTOCOL] = spec.protocol
    if code_hash is not None:
        annotations[names.ANNOTATION_CODE_HASH] = code_hash
    pod: Manifest = {
        "containers": containers(function, platform),
        "securityContext": merge(POD_SECURITY, user.security_context),
        "terminationGracePeriodSeconds": grace_period(function),
        # Service links put every Service of the namespace into the environment, which slows the start.
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(spec.service_account_name),
    }
    if spec.service_account_name:
        pod["serviceAccountName"] = spec.service_account_name
    if image is not None and image.protocol == "lambda":
        # The agent must see the function's process, to kill it when it exceeds its timeout.
        pod["shareProcessNamespace"] = True
        # The container that `kubectl logs` shows by default.
        annotations.setdefault("kubectl.kubernetes.io/default-container", names.CONTAINER_FUNCTION)
    volumes = [dict(volume) for volume in user.volumes]
    if spec.code.config_map is not None:
        volumes.append({"name": CODE_VOLUME, "configMap": {"name": spec.code.config_map.name}})
    optional: Manifest = {
        "volumes": volumes,
        "nodeSelector": dict(user.node_selector),
        "tolerations": list(user.tolerations),
        "affinity": user.affinity,
        "topologySpreadConstraints": list(user.topology_spread_constraints),
        "imagePullSecrets": list(user.image_pull_secrets),
        "runtimeClassName": user.runtime_class_name,
        "priorityClassName": user.priority_class_name,
    }
    pod.update({key: value for key, value in optional.items() if value})
    return {
        "metadata": {"labels": {**user.labels, **own_labels(function.metadata.name)}, "annotations": annotations},
        "spec": pod,
    }


def dial_port(function: Function) -> int:
    """The port of the pod that the gateway dials."""
    image = function.spec.code.image
    return image.port if image is not None and image.protocol == "http" else names.AGENT_PORT
