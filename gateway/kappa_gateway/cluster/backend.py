"""The gateway's backend in a cluster: follows Functions and the pods that run them."""

import asyncio
from collections.abc import Sequence
from typing import Final

from kappa_core import names
from kappa_core.function import Function
from kappa_gateway.cluster import peers, pods
from kappa_gateway.cluster.functions import FunctionReader
from kappa_gateway.pods.platform import Pod, PoolPod, Sink
from kappa_kube import paths
from kappa_kube.client import Client
from kappa_kube.connection import Connection
from kappa_kube.reflector import Reflector, Resource, Timing
from kappa_kube.table import Table

ALL_NAMESPACES: Final = ""
FIELD_MANAGER: Final = "kappa-gateway"
_FORBIDDEN: Final = "the gateway's ServiceAccount may not: its ClusterRole needs get, list and watch on it"
_HINTS_FUNCTIONS: Final = {
    403: _FORBIDDEN,
    404: "the cluster does not know Functions: apply the CustomResourceDefinition"
    f" {names.CRD_NAME}, from crds/ or by the chart",
}
_HINTS_PODS: Final = {403: _FORBIDDEN}
_HINTS_PEERS: Final = {
    403: "the gateway's ServiceAccount may not: its Role in its own namespace needs get, list and watch on pods"
}


class KubernetesBackend:
    """Follows `namespaces`, or all namespaces if the list is empty.

    `kubeconfig` is a path; None means the rule of `kappa_kube.configuration`. With `pools` it also follows the pods of
    warm pools; `peers` is the namespace and the label selector of the gateways' own pods, where there may be several.
    `run` raises `NoCluster` when nothing is configured; after any other error it tries again.
    """

    def __init__(
        self,
        namespaces: Sequence[str] = (),
        *,
        kubeconfig: str | None = None,
        timing: Timing | None = None,
        pools: bool = False,
        peers: tuple[str, str] | None = None,
    ) -> None:
        self._scopes = tuple(dict.fromkeys(namespaces)) or (ALL_NAMESPACES,)
        self._kubeconfig = kubeconfig
        self._timing = timing
        self._pools = pools
        self._peers = peers

    async def run(self, sink: Sink) -> None:
        listener = pods.Pods(sink)
        functions: Table[Function] = Table(
            self._scopes,
            FunctionReader(),
            replace=sink.replace_functions,
            put=sink.put_function,
            remove=sink.remove_function,
        )
        function_pods: Table[Pod | PoolPod] = Table(
            self._scopes, pods.read, replace=listener.replace, put=listener.put, remove=listener.remove
        )
        # both kinds by one watch, so that a pod's change from one to the other is one event
        selector = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}" if self._pools else names.LABEL_FUNCTION
        # each watch holds a connection, and the number of scopes bounds them
        async with Connection("kappa-gateway", kubeconfig=self._kubeconfig, limit=0) as connection:
            client = Client(connection, FIELD_MANAGER)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for scope in self._scopes:
                        of = f" of namespace {scope}" if scope else ""
                        resource = Resource(
                            paths.collection(paths.FUNCTIONS, scope), f"Functions{of}", hints=_HINTS_FUNCTIONS
                        )
                        tasks.create_task(Reflector(client, resource, scope, functions, timing=self._timing).run())
                        resource = Resource(
                            paths.collection(paths.PODS, scope), f"function pods{of}", selector, _HINTS_PODS
                        )
                        tasks.create_task(Reflector(client, resource, scope, function_pods, timing=self._timing).run())
                    if self._peers is not None:
                        tasks.create_task(self._follow_peers(client, sink, *self._peers))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None  # NoCluster, or a bug: either way the first one says it

    async def _follow_peers(self, client: Client, sink: Sink, namespace: str, selector: str) -> None:
        table = Table.of_few([namespace], peers.read, lambda known: sink.replace_peers(known.values()))
        resource = Resource(paths.collection(paths.PODS, namespace), "the gateways' own pods", selector, _HINTS_PEERS)
        await Reflector(client, resource, namespace, table, timing=self._timing).run()
