"""The condition types and reasons of a Function's status. Standard library only."""

from enum import StrEnum
from typing import Final


class ConditionType(StrEnum):
    READY = "Ready"
    """The Function can be invoked: its Deployment is applied, and no problem is known."""
    CODE_AVAILABLE = "CodeAvailable"
    """Its code exists and loads. `Unknown` until a pod of this revision has started."""
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
    """A Secret, ConfigMap or key that env, envFrom or a volume names does not exist, so the pod cannot start."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CODE_UNREADABLE = "CodeUnreadable"
    """An archive that cannot be fetched, has another hash, or is not a zip file."""
    DEPLOYMENT_CONFLICT = "DeploymentConflict"
    """A Deployment of that name exists and belongs to somebody else."""
    POD_REJECTED = "PodRejected"
    """A quota, a Pod Security level or an admission webhook refuses the pods."""
    UNSCHEDULABLE = "Unschedulable"
    INIT_FAILED = "InitFailed"
    """The code does not load (import error, no such handler, exit at import). Invocations get Lambda's error for it."""
    NOT_LISTENING = "NotListening"
    """An image's web server does not listen on the port that the Function names."""
    CRASHING = "Crashing"
    """The container keeps exiting."""


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
"""Reasons of `Ready: False` with which no pod can start. The gateway answers 502 with the condition's message at once,
unless a pod of an earlier revision still serves."""
