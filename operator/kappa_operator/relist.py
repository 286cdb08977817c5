"""Full lists of everything, at the start and every few minutes.

After a 410 kopf lists again without an event for what was deleted meanwhile; a full list finds that. It is also the
first sync: nothing is reconciled before every list was read once.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from kappa_core.observed import Raw, deployment_facts
from kappa_kube import paths
from kappa_kube.connection import Json
from kappa_kube.errors import ApiError
from kappa_kube.store import Store
from kappa_operator import cache as facts
from kappa_operator import selectors
from kappa_operator.cache import Cache

logger = logging.getLogger(__name__)


class Lister(Protocol):
    """The part of `kappa_kube.client.Client` that this needs."""

    def pages(self, path: str, **query: str) -> AsyncIterator[Json]: ...


class Relister:
    """Of `operator`, and of the Functions that `function_selector` selects; all namespaces where none is given."""

    def __init__(
        self, api: Lister, cache: Cache, namespaces: Sequence[str], function_selector: str, operator: str = ""
    ) -> None:
        self._functions = function_selector
        self._operator = operator
        self._api = api
        self._cache = cache
        self._namespaces: Sequence[str | None] = namespaces or [None]
        self._refused: set[str | None] = set()

    @property
    def served(self) -> list[str]:
        """The namespaces to serve that the last list could read; empty where the whole cluster is served."""
        return [namespace for namespace in self._namespaces if namespace and namespace not in self._refused]

    async def relist(self) -> set[str]:
        """The keys of all Functions that are or were known, or that a pod names: all are to be reconciled.

        Raises `RequestFailed`.
        """
        cache = self._cache
        before = set(cache.functions)
        self._refused = set()
        # What Functions refer to first, so that nothing seems to be missing that is only not listed yet.
        await self._list(
            paths.CONFIG_MAPS, cache.config_maps, facts.config_map_facts, fieldSelector=selectors.CONFIG_MAPS
        )
        await self._list(
            paths.DEPLOYMENTS,
            cache.deployments,
            deployment_facts,
            facts.deployment_function_key,
            labelSelector=selectors.OURS,
        )
        await self._list(
            paths.DEPLOYMENTS,
            cache.pools,
            deployment_facts,
            lambda raw: facts.deployment_pool_key(raw, self._operator),
            labelSelector=selectors.POOLS,
        )
        await self._list(paths.PODS, cache.pods, facts.pod_record, labelSelector=selectors.OURS)
        cache.reindex_pods()
        await self._list(paths.FUNCTIONS, cache.functions, facts.function_record, labelSelector=self._functions)
        # pods_of: pods that were claimed for a Function that is gone
        return before | set(cache.functions) | set(cache.pods_of)

    async def _list(
        self,
        resource: str,
        store: Store[Any],  # Any: the store's items, which `reduce` makes
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
                async for page in self._api.pages(paths.collection(resource, namespace), **query):
                    for raw in page.get("items") or ():
                        key = key_of(raw)
                        if key is not None:
                            listed[key] = reduce(raw)
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
                self._refused.add(namespace)
                if len(self._refused) == len(self._namespaces):
                    raise
                logger.warning(
                    "a namespace cannot be listed and is left out: create it and grant the operator its Role there,"
                    " or remove it from watchNamespaces",
                    extra={"namespace": namespace, "resource": resource, "error": str(error)},
                )
        store.end_relist(listed)
