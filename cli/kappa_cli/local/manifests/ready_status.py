"""The status that the operator sets in a cluster: the Ready condition, and how a cold start works. Pure."""

from datetime import UTC, datetime
from typing import Final

from kappa_core.function import Code, Condition, Function, FunctionSpec, FunctionStatus, ObjectMeta
from kappa_core.pool import PoolSettings, cold_start
from kappa_core.reasons import ConditionType, Reason

POOLS: Final = PoolSettings(size=1, public_key="local", memory_limit="1Ti")
"""Processes of this machine have no memory limit."""


def with_ready(function: Function, reason: Reason, message: str) -> Function:
    """The Function with a Ready condition: True for `Deployed`, False for any other reason."""
    condition = Condition(
        type=ConditionType.READY,
        status="True" if reason is Reason.DEPLOYED else "False",
        observed_generation=function.metadata.generation,
        last_transition_time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        reason=reason,
        message=message,
    )
    status = FunctionStatus(
        observed_generation=function.metadata.generation,
        conditions=[condition],
        cold_start=cold_start(function, POOLS),
    )
    return function.model_copy(update={"status": status})


def placeholder(namespace: str, name: str) -> Function | None:
    """Stands for a Function whose manifest is invalid, so that requests to it are answered with the reason. None where
    its name is invalid too."""
    try:
        metadata = ObjectMeta(name=name, namespace=namespace)
    except ValueError:
        return None
    spec = FunctionSpec(runtime="python3", handler="main.handler", code=Code(inline="#"))
    return Function(metadata=metadata, spec=spec)


def with_generation(function: Function, generation: int) -> Function:
    """The Function with the generation that an API server would give it."""
    return function.model_copy(update={"metadata": function.metadata.model_copy(update={"generation": generation})})
