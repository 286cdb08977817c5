"""The condition types and reasons of a Function's status. Standard library only."""

from enum import StrEnum
from typing import Final


class ConditionType(StrEnum):
    READY = "Ready"
    """The Function can be invoked: its Deployment is applied and nothing known stands in the way."""
    CODE_AVAILABLE = "CodeAvailable"
    """Its code is there, and was seen to load (`Unknown` until a pod of this code has started)."""
    PROGRESSING = "Progressing"
    """A change is on its way to the pods."""


class Reason(StrEnum):
    DEPLOYED = "Deployed"
    """Ready, with no pod running: the next invocation starts one."""
    RUNNING = "Running"
    STARTING = "Starting"
    ROLLING_OUT = "RollingOut"
    ROLLED_OUT = "RolledOut"
    CODE_LOADED = "CodeLoaded"
    NOT_STARTED_YET = "NotStartedYet"

    INVALID_SPEC = "InvalidSpec"
    UNKNOWN_RUNTIME = "UnknownRuntime"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    CONFIG_MISSING = "ConfigMissing"
    """A Secret, ConfigMap or key that env, envFrom or a volume names is not there: the pod cannot start."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CODE_UNREADABLE = "CodeUnreadable"
    """An archive that cannot be fetched, has another hash or is no zip."""
    DEPLOYMENT_CONFLICT = "DeploymentConflict"
    """A Deployment of that name exists and belongs to somebody else."""
    POD_REJECTED = "PodRejected"
    """A quota, a Pod Security level or an admission webhook refuses the pods."""
    UNSCHEDULABLE = "Unschedulable"
    INIT_FAILED = "InitFailed"
    """The code does not load (import error, no such handler, exit at import). Invocations get Lambda's error for it."""
    NOT_LISTENING = "NotListening"
    """An image's web server does not listen on the port it should."""
    CRASHING = "Crashing"
    """The container itself ends again and again."""


BLOCKING: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.UNKNOWN_RUNTIME,
        Reason.CONFIG_MAP_NOT_FOUND,
        Reason.CONFIG_MISSING,
        Reason.IMAGE_PULL_FAILED,
        Reason.CODE_UNREADABLE,
        Reason.DEPLOYMENT_CONFLICT,
        Reason.POD_REJECTED,
        Reason.NOT_LISTENING,
        Reason.CRASHING,
    }
)
"""Reasons of `Ready: False` with which no pod can come: the gateway answers 502 with the condition's message at once,
unless a pod of an earlier state still serves."""
