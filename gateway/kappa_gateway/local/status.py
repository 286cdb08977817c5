"""The status that the operator would set in a cluster: the Ready condition, and the way of a cold start. Pure."""

from datetime import UTC, datetime
from typing import Final

from kappa_core.function import Code, Condition, Function, FunctionSpec, FunctionStatus, ObjectMeta
from kappa_core.pool import PoolSettings, cold_start
from kappa_core.reasons import ConditionType, Reason

POOLS: Final = PoolSettings(size=1, public_key="local", memory_limit="1Ti")
"""Processes of this machine have no limit of memory."""


def with_ready(function: Function, reason: Reason, message: str) -> Function:
    """The Function with its Ready condition: True for `Deployed`, False for any other reason."""
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
    """Stands for a Function whose manifest cannot be read, so that it can be served as failed. None where not even
    its name can be."""
    try:
        metadata = ObjectMeta(name=name, namespace=namespace)
    except ValueError:
        return None
    spec = FunctionSpec(runtime="python3", handler="main.handler", code=Code(inline="#"))
    return Function(metadata=metadata, spec=spec)


def with_generation(function: Function, generation: int) -> Function:
    """The Function as an API server would count its changes."""
    return function.model_copy(update={"metadata": function.metadata.model_copy(update={"generation": generation})})
