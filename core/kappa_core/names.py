"""Every name that Kappa gives to something in a cluster: API group, labels, annotations, child objects, ports."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself would cost every cold start milliseconds
if TYPE_CHECKING:
    from typing import Final

GROUP: Final = "kappa.run"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "Function"
PLURAL: Final = "functions"
CRD_NAME: Final = f"{PLURAL}.{GROUP}"

FIELD_MANAGER: Final = "kappa-operator"
"""The operator's field manager for server-side apply."""

LABEL_FUNCTION: Final = f"{GROUP}/function"
"""On a Function's Deployment and pods: the Function's name."""
LABEL_OPERATOR: Final = f"{GROUP}/operator"
"""On a Function: the operator that serves it, by that operator's `name` setting; without it, the one that has none."""
LABEL_POOL: Final = f"{GROUP}/pool"
"""On a pool's Deployment and its pods: the runtime. A pod that was claimed for a function has `LABEL_FUNCTION`
instead."""
POD_TEMPLATE_HASH: Final = "pod-template-hash"
"""Kubernetes' own label on the pods of a ReplicaSet. A ReplicaSet adopts a pod that has its hash and no controller."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "kappa"
COMPONENT_FUNCTION: Final = "function"
COMPONENT_POOL: Final = "pool"
COMPONENT_GATEWAY: Final = "gateway"

ANNOTATION_CONCURRENCY: Final = f"{GROUP}/concurrency"
"""On a function's pod: how many invocations it takes at once; the gateway's slots for it."""
ANNOTATION_PORT: Final = f"{GROUP}/port"
"""On a function's pod: the port the gateway dials."""
ANNOTATION_PROTOCOL: Final = f"{GROUP}/protocol"
"""On a function's pod: `lambda` (the agent answers) or `http` (the user's own server answers)."""
ANNOTATION_CODE_HASH: Final = f"{GROUP}/code-sha256"
"""On the pod template: the hash of mounted code (a ConfigMap's), which is no part of the template. So new code rolls
the pods."""
ANNOTATION_REVISION: Final = f"{GROUP}/revision"
"""On a function's pod: its revision, the hash of the pod template that it was made from (or, from a pool, stands in
for)."""
ANNOTATION_FROM_POOL: Final = f"{GROUP}/from-pool"
"""On a function's pod that came from a pool: its container's restart count when it was claimed. If the count is higher
now, the container was restarted, and its agent has no function again."""
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"

AGENT_PORT: Final = 8080
RUNTIME_API_PORT: Final = 9001
"""The first runtime process's Lambda Runtime API; process i has port 9001 + i."""
GATEWAY_PORT: Final = 8080
GATEWAY_INTERNAL_PORT: Final = 8081
"""The gateway's demand stream and other internal paths: users do not reach this port."""
OPERATOR_PORT: Final = 8082

CONTAINER_FUNCTION: Final = "function"
CONTAINER_AGENT: Final = "agent"

TASK_ROOT: Final = "/var/task"
"""Where a function's code is in its pod (`LAMBDA_TASK_ROOT`)."""


def deployment_name(function: str) -> str:
    """The Deployment that runs a Function: `fn-` and the Function's name, in the Function's namespace."""
    return f"fn-{function}"


def pool_name(runtime: str) -> str:
    """The Deployment of a runtime's pool in a namespace: `pool-` and the runtime, such as `pool-python3-13`."""
    return f"pool-{runtime.replace('.', '-')}"


def function_key(namespace: str, name: str) -> str:
    """The name of a Function in logs and errors: `namespace/name`."""
    return f"{namespace}/{name}"
