"""The gateway's backend in a cluster: follows Functions and the pods that run them."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from kappa_core import names
from kappa_core.function import Function
from kappa_gateway.backend import Peer, Pod, PoolPod, Sink
from kappa_gateway.kubernetes import pods as pod_kinds
from kappa_gateway.kubernetes.api import ApiServer
from kappa_gateway.kubernetes.peers import Peers
from kappa_gateway.kubernetes.pods import Pods
from kappa_gateway.kubernetes.reflector import Reflector, Resource, Timing
from kappa_gateway.kubernetes.table import Table

log = logging.getLogger(__name__)

ALL_NAMESPACES: Final = ""
_MAY_NOT: Final = "the gateway's ServiceAccount may not: its ClusterRole needs get, list and watch on it"
_HINTS_FUNCTIONS: Final = {
    403: _MAY_NOT,
    404: f"the cluster does not know Functions: apply the CustomResourceDefinition {names.CRD_NAME}, from crds/ or by the chart",
}
_HINTS_PODS: Final = {403: _MAY_NOT}
_HINTS_PEERS: Final = {
    403: "the gateway's ServiceAccount may not: its Role in its own namespace needs get, list and watch on pods"
}


class KubernetesBackend:
    """Follows `namespaces`, or the whole cluster where the list is empty.

    `kubeconfig` is a path; None means: the variable KUBECONFIG, else the pod's own service account, else
    `~/.kube/config`. With `pools` the pods of warm pools are told too; `peers` is the namespace and the label selector of
    the gateways' own pods, where there may be several. `run` raises `api.NoCluster` when none of them is there; whatever else goes wrong it tries again.
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
        api = ApiServer(self._kubeconfig)
        functions: Table[Function] = Table(
            self._scopes,
            FunctionReader(),
            replace=sink.replace_functions,
            put=sink.put_function,
            remove=sink.remove_function,
        )
        both = Pods(sink)
        pods: Table[Pod | PoolPod] = Table(
            self._scopes, _read_pod, replace=both.replace, put=both.put, remove=both.remove
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for scope in self._scopes:
                    tasks.create_task(Reflector(api, _functions(scope), scope, functions, timing=self._timing).run())
                    tasks.create_task(
                        Reflector(api, _pods(scope, pools=self._pools), scope, pods, timing=self._timing).run()
                    )
                if self._peers is not None:
                    tasks.create_task(self._follow_peers(api, sink, *self._peers))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # NoCluster, or a bug: either way the first one says it
        finally:
            await api.close()

    async def _follow_peers(self, api: ApiServer, sink: Sink, namespace: str, selector: str) -> None:
        known = Peers(sink.replace_peers)
        table: Table[Peer] = Table([namespace], Peers.read, replace=known.replace, put=known.put, remove=known.remove)
        resource = Resource(f"/api/v1{_in(namespace)}/pods", "the gateways' own pods", selector, hints=_HINTS_PEERS)
        await Reflector(api, resource, namespace, table, timing=self._timing).run()


class FunctionReader:
    """A Function's JSON → the model. One that cannot be read is logged once and stays as it was last read."""

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str], str] = {}

    def __call__(self, raw: Mapping[str, Any], _seen_at: float | None, previous: Function | None, /) -> Function | None:
        metadata = raw["metadata"]
        key = (metadata["namespace"], metadata["name"])
        try:
            function = Function.from_cluster(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            if self._reported.get(key) != what:
                self._reported[key] = what
                log.warning(
                    "a Function that this gateway cannot read is %s (the CustomResourceDefinition may be newer than the gateway, or older): %s",
                    "served as it was before" if previous else "not served",
                    what,
                    extra={"function": names.function_key(*key)},
                )
            return previous
        self._reported.pop(key, None)
        return function


def _read_pod(raw: Mapping[str, Any], seen_at: float | None, previous: Pod | PoolPod | None, /) -> Pod | PoolPod | None:
    try:
        return pod_kinds.read(raw, seen_at, previous)
    except (KeyError, TypeError, ValueError, AttributeError):
        log.warning(
            "a pod that cannot be read is left out", exc_info=True, extra={"pod": str(raw.get("metadata"))[:200]}
        )
        return None


def _functions(namespace: str) -> Resource:
    return Resource(
        path=f"/apis/{names.GROUP}/{names.VERSION}{_in(namespace)}/{names.PLURAL}",
        title=f"Functions{_of(namespace)}",
        hints=_HINTS_FUNCTIONS,
    )


def _pods(namespace: str, *, pools: bool) -> Resource:
    return Resource(
        path=f"/api/v1{_in(namespace)}/pods",
        title=f"function pods{_of(namespace)}",
        # both kinds by one watch, so that a pod's change from one to the other is one event
        selector=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}" if pools else names.LABEL_FUNCTION,
        hints=_HINTS_PODS,
    )


def _in(namespace: str) -> str:
    return f"/namespaces/{namespace}" if namespace else ""


def _of(namespace: str) -> str:
    return f" of namespace {namespace}" if namespace else ""
