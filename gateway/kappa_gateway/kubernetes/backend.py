"""The gateway's backend in a cluster: follows Functions and the pods that run them."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from kappa_core import names
from kappa_core.function import Function
from kappa_gateway.backend import Pod, Sink
from kappa_gateway.kubernetes.api import ApiServer
from kappa_gateway.kubernetes.reduction import reduce_pod
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


class KubernetesBackend:
    """Follows `namespaces`, or the whole cluster where the list is empty.

    `kubeconfig` is a path; None means: the variable KUBECONFIG, else the pod's own service account, else
    `~/.kube/config`. `run` raises `api.NoCluster` when none of them is there; whatever else goes wrong it tries again.
    """

    def __init__(
        self, namespaces: Sequence[str] = (), *, kubeconfig: str | None = None, timing: Timing | None = None
    ) -> None:
        self._scopes = tuple(dict.fromkeys(namespaces)) or (ALL_NAMESPACES,)
        self._kubeconfig = kubeconfig
        self._timing = timing

    async def run(self, sink: Sink) -> None:
        api = ApiServer(self._kubeconfig)
        functions: Table[Function] = Table(
            self._scopes,
            FunctionReader(),
            replace=sink.replace_functions,
            put=sink.put_function,
            remove=sink.remove_function,
        )
        pods: Table[Pod] = Table(
            self._scopes, _read_pod, replace=sink.replace_pods, put=sink.put_pod, remove=sink.remove_pod
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for scope in self._scopes:
                    tasks.create_task(Reflector(api, _functions(scope), scope, functions, timing=self._timing).run())
                    tasks.create_task(Reflector(api, _pods(scope), scope, pods, timing=self._timing).run())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # NoCluster, or a bug: either way the first one says it
        finally:
            await api.close()


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


def _read_pod(raw: Mapping[str, Any], seen_at: float | None, previous: Pod | None, /) -> Pod | None:
    try:
        return reduce_pod(raw, seen_at, previous)
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


def _pods(namespace: str) -> Resource:
    return Resource(
        path=f"/api/v1{_in(namespace)}/pods",
        title=f"function pods{_of(namespace)}",
        selector=names.LABEL_FUNCTION,
        hints=_HINTS_PODS,
    )


def _in(namespace: str) -> str:
    return f"/namespaces/{namespace}" if namespace else ""


def _of(namespace: str) -> str:
    return f" of namespace {namespace}" if namespace else ""
