"""Facts about Deployments, ReplicaSets and pods: a few fields of each object, so that watching thousands is cheap.

Pure functions of the objects' JSON. They turn Kubernetes' reasons into Kappa's, with messages that say how to mend
things.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kappa_core import manifests, names
from kappa_core.reasons import Reason

Raw = Mapping[str, Any]
"""A Kubernetes object as the API server sends it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why a Function cannot run."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    uid: str
    resource_version: int
    generation: int
    observed_generation: int
    controller_uid: str
    """Its controller's uid; empty if it has none."""
    controller: str
    """Its controller's kind and name, such as `Function/hello`; empty if it has none."""
    revision: str
    replicas: int
    """`spec.replicas`."""
    total: int
    """Pods that exist."""
    updated: int
    """Pods of the newest pod template."""
    ready: int
    rejection: str
    """Why the cluster refuses its pods (a quota, Pod Security, a webhook); empty if it does not."""
    digest: str
    """A hash of everything but status and replicas. If it differs from the last one, somebody changed the
    Deployment."""
    owns_replicas: bool
    """Whether the operator's server-side apply still owns `spec.replicas`: it does until the first write to
    `/scale`."""
    deleting: bool


@dataclass(frozen=True, slots=True)
class PodFacts:
    namespace: str
    name: str
    uid: str
    function: str
    revision: str
    ip: str
    running: bool
    ready: bool
    terminating: bool
    protocol: str
    deletion_cost: int
    restarts: int
    problem: Problem | None
    port: int = 0
    """The port that gateways dial."""
    spent: bool = False
    """A user's container that once worked has ended, and the kubelet backs off before it starts it again. The agent
    waits."""
    pool: str = ""
    """The runtime of the pool that the pod is in; empty: it is in none."""
    from_pool: bool = False
    """It came from a pool and is a function's now."""
    relapsed: bool = False
    """It came from a pool, and its container was restarted later: its agent has no function again."""
    operator: str = ""
    """The `name` setting of the operator that a pool pod belongs to."""
    controller_uid: str = ""
    template_hash: str = ""
    image: str = ""
    """The image of the function's container."""
    limits: tuple[str, str] = ("", "")
    """Memory and cpu limits of the function's container; empty: none."""


@dataclass(frozen=True, slots=True)
class ReplicaSetFacts:
    uid: str
    deployment_uid: str
    template_hash: str
    number: int
    """The Deployment's number for this ReplicaSet; the highest is the newest."""
    replicas: int
    """`spec.replicas`."""


def resource_version(raw: Raw) -> int:
    """The `resourceVersion` as a number; 0 if it is none. Kubernetes promises that these can be compared (KEP-5504)."""
    text = str(raw.get("metadata", {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def deployment_facts(raw: Raw) -> DeploymentFacts:
    metadata, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    owner = _controller(metadata)
    return DeploymentFacts(
        uid=metadata.get("uid", ""),
        resource_version=resource_version(raw),
        generation=metadata.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        controller_uid=owner.get("uid", ""),
        controller=f"{owner['kind']}/{owner['name']}" if owner else "",
        revision=manifests.revision(dict(raw)),
        replicas=spec.get("replicas", 1),
        total=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        rejection=_rejection(status),
        digest=_digest(raw),
        owns_replicas=_owns_replicas(metadata),
        deleting="deletionTimestamp" in metadata,
    )


def _rejection(status: Raw) -> str:
    for condition in status.get("conditions", []):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            # The generated name of the pod differs each time, and would make each message a new one.
            return re.sub(r'pods "[^"]*" is forbidden: ', "", str(condition.get("message", "")))
    return ""


def _digest(raw: Raw) -> str:
    metadata = raw["metadata"]
    spec = {key: value for key, value in raw.get("spec", {}).items() if key != "replicas"}
    labels = metadata.get("labels", {})
    own = {key: labels.get(key) for key in manifests.own_labels("")}
    text = json.dumps([spec, own, metadata.get("ownerReferences")], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2s(text.encode(), digest_size=12).hexdigest()


def _owns_replicas(metadata: Raw) -> bool:
    return any(
        entry.get("manager") == names.FIELD_MANAGER
        and entry.get("operation") == "Apply"
        and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in metadata.get("managedFields", [])
    )


def pod_facts(raw: Raw) -> PodFacts:
    metadata, status = raw["metadata"], raw.get("status", {})
    annotations = metadata.get("annotations", {})
    cost = str(annotations.get(names.ANNOTATION_DELETION_COST, "0"))
    port = str(annotations.get(names.ANNOTATION_PORT, ""))
    ready = _condition(status, "Ready").get("status") == "True"
    worked = _agent_is_ready(status)
    return PodFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        function=metadata.get("labels", {}).get(names.LABEL_FUNCTION, ""),
        revision=annotations.get(names.ANNOTATION_REVISION, ""),
        ip=status.get("podIP", ""),
        running=any("running" in container.get("state", {}) for container in status.get("containerStatuses", [])),
        ready=ready,
        terminating="deletionTimestamp" in metadata,
        protocol=annotations.get(names.ANNOTATION_PROTOCOL, "lambda"),
        deletion_cost=int(cost) if cost.lstrip("-").isdecimal() else 0,
        restarts=sum(container.get("restartCount", 0) for container in status.get("containerStatuses", [])),
        # A runtime process that ended in an invocation is not the Function's problem: the caller got the error.
        problem=None if ready or worked else pod_problem(raw),
        port=int(port) if port.isdecimal() else 0,
        spent=worked and _backs_off(status),
        **_pool_facts(raw),
    )


def _pool_facts(raw: Raw) -> dict[str, Any]:
    metadata = raw["metadata"]
    labels = metadata.get("labels", {})
    container: Raw = next(
        (c for c in raw.get("spec", {}).get("containers", []) if c.get("name") == names.CONTAINER_FUNCTION), {}
    )
    limits = container.get("resources", {}).get("limits", {})
    before = metadata.get("annotations", {}).get(names.ANNOTATION_FROM_POOL)
    restarts = sum(c.get("restartCount", 0) for c in raw.get("status", {}).get("containerStatuses", []))
    return {
        "pool": labels.get(names.LABEL_POOL, ""),
        "from_pool": before is not None,
        "relapsed": before is not None and str(restarts) != before,
        "operator": labels.get(names.LABEL_OPERATOR, ""),
        "controller_uid": _controller(metadata).get("uid", ""),
        "template_hash": labels.get(names.POD_TEMPLATE_HASH, ""),
        "image": container.get("image", ""),
        "limits": (str(limits.get("memory", "")), str(limits.get("cpu", ""))),
    }


def replica_set_facts(raw: Raw) -> ReplicaSetFacts:
    metadata = raw["metadata"]
    number = str(metadata.get("annotations", {}).get("deployment.kubernetes.io/revision", ""))
    return ReplicaSetFacts(
        uid=metadata["uid"],
        deployment_uid=_controller(metadata).get("uid", ""),
        template_hash=metadata.get("labels", {}).get(names.POD_TEMPLATE_HASH, ""),
        number=int(number) if number.isdecimal() else 0,
        replicas=raw.get("spec", {}).get("replicas", 0),
    )


def _controller(metadata: Raw) -> Raw:
    return next((ref for ref in metadata.get("ownerReferences", []) if ref.get("controller")), {})


def _agent_is_ready(status: Raw) -> bool:
    """Whether an agent in a sidecar is ready, that is, whether the user's container has asked it for work."""
    return any(c.get("name") == names.CONTAINER_AGENT and c.get("ready") for c in status.get("containerStatuses", []))


def _backs_off(status: Raw) -> bool:
    """Whether the kubelet backs off before it restarts the user's container, as it does from the second exit on.

    The kubelet writes `CrashLoopBackOff` into the status up to ten seconds after the exit. Until then the status shows
    a terminated container that was restarted before.
    """
    for container in status.get("containerStatuses", []):
        if container.get("name") == names.CONTAINER_FUNCTION:
            state = container.get("state", {})
            again = "terminated" in state and container.get("restartCount", 0) >= 1
            return bool(again or state.get("waiting", {}).get("reason") == "CrashLoopBackOff")
    return False


def _condition(status: Raw, condition_type: str) -> Raw:
    conditions: list[Raw] = status.get("conditions", [])
    return next((condition for condition in conditions if condition.get("type") == condition_type), {})


IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
LAST_WORDS: Final = 500
"""The most characters of a log line that a message quotes."""
_START_REASONS: Final = frozenset({"CreateContainerError", "RunContainerError", "PostStartHookError"})


def pod_problem(raw: Raw) -> Problem | None:
    """Why a pod cannot serve, according to its status; None while it may still become ready."""
    status = raw.get("status", {})
    images = {c["name"]: c.get("image", "") for c in raw.get("spec", {}).get("containers", [])}
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        image = images.get(container.get("name", ""), container.get("image", ""))
        problem = _container_problem(container, image, raw)
        if problem:
            return problem
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return Problem(
            Reason.UNSCHEDULABLE,
            f"no node takes the pod: {scheduled.get('message', '')} Ask for less memory or cpu, change podTemplate's"
            " scheduling fields, or add a node.",
        )
    return None


def _container_problem(container: Raw, image: str, raw: Raw) -> Problem | None:
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), str(waiting.get("message", "")).strip()
    if reason in IMAGE_REASONS:
        # The kubelet alternates between the error and its back-off. Both contain the same cause.
        cause = re.sub(r'^Back-off pulling image "[^"]*"(: )?', "", message)
        cause = re.sub(r"^(ErrImagePull: )+", "", cause).rstrip(".") or reason
        return Problem(
            Reason.IMAGE_PULL_FAILED,
            f"the image {image!r} cannot be pulled: {cause}. Check its name and tag, and podTemplate.imagePullSecrets"
            " if its registry needs a login.",
        )
    if reason == "CreateContainerConfigError":
        if "runAsNonRoot" in message or "non-root" in message:
            return Problem(
                Reason.POD_REJECTED,
                f"the image {image!r} wants to run as root: {_without_pod(message)}. Give podTemplate.securityContext a"
                " runAsUser, or use an image that runs as another user.",
            )
        return Problem(
            Reason.CONFIG_MISSING,
            f"the pod cannot start: {_without_pod(message)}. Create it in the namespace"
            f" {raw['metadata']['namespace']!r}, or mark the reference optional.",
        )
    if reason in _START_REASONS:
        return Problem(
            Reason.CRASHING,
            f"the container of the image {image!r} cannot be started: {_without_pod(message) or reason}."
            " Check its command and args.",
        )
    ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")
    restarts = container.get("restartCount", 0)
    if ended and (reason == "CrashLoopBackOff" or restarts >= 2) and not container.get("ready"):
        return Problem(Reason.CRASHING, _crash(ended, container, image, raw))
    return None


def _crash(ended: Raw, container: Raw, image: str, raw: Raw) -> str:
    if ended.get("reason") == "OOMKilled":
        limits: Raw = next(
            (
                c.get("resources", {}).get("limits", {})
                for c in raw.get("spec", {}).get("containers", [])
                if c["name"] == container.get("name")
            ),
            {},
        )
        return (
            f"the container was killed for using more memory than its limit of {limits.get('memory', 'its node')}."
            " Raise spec.memory."
        )
    # The termination message, or the end of the container's log (terminationMessagePolicy): the last line is the cause.
    said = next((line.strip() for line in reversed(str(ended.get("message", "")).splitlines()) if line.strip()), "")
    text = f"the container of the image {image!r} keeps exiting, with exit code {ended.get('exitCode')}"
    return f"{text}. Its last output: {said[:LAST_WORDS]}" if said else f"{text} and without output."


def _without_pod(message: str) -> str:
    """Removes the pod's name and uid, which would make each pod's message a different one."""
    return re.sub(r'\s*\(pod: "[^"]*", container: [^)]*\)', "", message).rstrip(".")
