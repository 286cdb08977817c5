"""Full lists of everything, at the start and every few minutes.

After a 410 kopf lists anew without telling what was deleted meanwhile; this finds it. It also is the first sync: nothing
is reconciled before every list was read once.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from kappa_operator import cache as facts
from kappa_operator import paths
from kappa_operator.cache import Cache, Raw, Store
from kappa_operator.client import Api, ApiError
from kappa_operator.watch import CONFIG_MAPS, OURS, POOLS

log = logging.getLogger(__name__)


class Relister:
    def __init__(
        self, api: Api, cache: Cache, namespaces: Sequence[str], function_selector: str, operator: str = ""
    ) -> None:
        self._functions = function_selector
        self._operator = operator
        self._api = api
        self._cache = cache
        self._namespaces: Sequence[str | None] = namespaces or [None]
        self._refused: set[str | None] = set()

    @property
    def served(self) -> list[str]:
        """Of the namespaces to serve those that the last list could read; empty where the whole cluster is served."""
        return [namespace for namespace in self._namespaces if namespace and namespace not in self._refused]

    async def relist(self) -> set[str]:
        """Every Function's key there is or was, or that a pod names: all of them are looked at again. Raises what the API raises."""
        cache = self._cache
        before = set(cache.functions)
        self._refused = set()
        # What Functions refer to first, so that nothing seems to be missing that is only not yet listed.
        await self._list(paths.CONFIG_MAPS, cache.config_maps, facts.config_map_facts, fieldSelector=CONFIG_MAPS)
        await self._list(
            paths.DEPLOYMENTS,
            cache.deployments,
            facts.deployment_record,
            facts.deployment_function_key,
            labelSelector=OURS,
        )
        await self._list(
            paths.DEPLOYMENTS,
            cache.pools,
            facts.deployment_record,
            lambda raw: facts.deployment_pool_key(raw, self._operator),
            labelSelector=POOLS,
        )
        await self._list(paths.PODS, cache.pods, facts.pod_record, labelSelector=OURS)
        cache.reindex_pods()
        await self._list(paths.FUNCTIONS, cache.functions, facts.function_record, labelSelector=self._functions)
        # With pods that were taken over for a Function that is gone.
        return before | set(cache.functions) | set(cache.pods_of)

    async def _list(
        self,
        resource: str,
        store: Store[Any],
        reduce: Callable[[Raw], Any],
        key_of: Callable[[Raw], str | None] = facts.object_key,
        **query: str,
    ) -> None:
        store.begin_relist()
        listed: dict[str, Any] = {}
        for namespace in self._namespaces:
            if namespace in self._refused:
                continue
            try:
                async for raw in self._api.list(paths.collection(resource, namespace), **query):
                    key = key_of(raw)
                    if key is not None:
                        listed[key] = reduce(raw)
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
                self._refused.add(namespace)
                if len(self._refused) == len(self._namespaces):
                    raise
                log.warning(
                    "a namespace cannot be listed, going on without it: create it and grant the operator its Role there,"
                    " or take it out of watchNamespaces",
                    extra={"namespace": namespace, "resource": resource, "error": str(error)},
                )
        store.end_relist(listed)
