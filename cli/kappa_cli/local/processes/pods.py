"""Shows functions and agent processes to the gateway, as the functions and pods that it knows."""

from collections.abc import Iterable

from kappa_cli.local.processes.agent_process import AgentProcess
from kappa_core.function import Function
from kappa_gateway.pods.platform import Pod, PoolPod, Sink

__all__ = ["Pods", "PoolKey", "Sink"]

PoolKey = tuple[str, str]
"""(namespace, runtime)"""


class Pods:
    """Over the gateway's `Sink`. Every method may be repeated."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def begin(self, functions: Iterable[Function]) -> None:
        """The first functions; there are no pods yet."""
        self._sink.replace_functions(functions)
        self._sink.replace_pods([])

    def put_function(self, function: Function) -> None:
        self._sink.put_function(function)

    def remove_function(self, namespace: str, name: str) -> None:
        self._sink.remove_function(namespace, name)

    def put(self, function: Function, process: AgentProcess) -> None:
        """The process runs this revision of the function."""
        phases = {"created": process.created_at, "scheduled": process.created_at}
        if process.started_at is not None:
            phases["started"] = process.started_at
        self._sink.put_pod(
            Pod(
                namespace=function.metadata.namespace,
                name=process.name,
                function=function.metadata.name,
                host="127.0.0.1" if process.port else None,
                port=process.port or 0,
                concurrency=function.spec.concurrency,
                protocol="lambda",
                terminating=process.stopping,
                created_at=process.created_at,
                phases=phases,
            )
        )

    def remove(self, namespace: str, process: AgentProcess) -> None:
        self._sink.remove_pod(namespace, process.name)

    def put_spare(self, pool: PoolKey, uid: str, process: AgentProcess) -> None:
        """The process listens, and has no function yet."""
        namespace, runtime = pool
        assert process.port is not None, "it listens"
        self._sink.put_pool_pod(
            PoolPod(namespace, runtime, process.name, uid, "127.0.0.1", process.port, process.started_at)
        )

    def remove_spare(self, pool: PoolKey, process: AgentProcess) -> None:
        self._sink.remove_pool_pod(pool[0], process.name)
