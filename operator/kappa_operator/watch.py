"""kopf's part: it watches, and each event only updates the cache's stores and puts a Function's key on the work queue.

Only `on.event` handlers: no finalizers, no annotations, none of kopf's state on any object.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import kopf
from kopf import ConnectionInfo, OperatorRegistry, OperatorSettings

from kappa_core import names
from kappa_core.observed import DeploymentFacts, deployment_facts, resource_version
from kappa_kube.configuration import Configuration, authorization
from kappa_kube.store import Store
from kappa_operator import cache as facts
from kappa_operator import selectors
from kappa_operator.cache import Cache

logger = logging.getLogger(__name__)


class Watcher:
    """Updates `cache`, and calls `enqueue` and `enqueue_pool` with the keys of what changed."""

    def __init__(
        self,
        cache: Cache,
        enqueue: Callable[[str], None],
        enqueue_pool: Callable[[str], None] = lambda key: None,
        operator: str = "",
    ) -> None:
        self._cache = cache
        self._enqueue = enqueue
        self._enqueue_pool = enqueue_pool
        self._operator = operator

    def function(self, raw: Mapping[str, Any], *, gone: bool) -> None:
        key = facts.object_key(raw)
        if gone:
            known = self._cache.functions.get(key)
            if known is None or known.uid == raw["metadata"].get("uid"):
                self._cache.functions.remove(key, resource_version(raw))
        elif not self._cache.functions.put(key, facts.function_record(raw)):
            return
        self._enqueue(key)

    def deployment(self, raw: Mapping[str, Any], *, gone: bool) -> None:
        key = facts.deployment_function_key(raw)
        if key is not None:
            self._deployment(self._cache.deployments, key, raw, self._enqueue, gone=gone)
            return
        key = facts.deployment_pool_key(raw, self._operator)
        if key is not None:
            self._deployment(self._cache.pools, key, raw, self._enqueue_pool, gone=gone)
            return
        self._disowned(self._cache.deployments, raw, self._enqueue)
        self._disowned(self._cache.pools, raw, self._enqueue_pool)

    def _disowned(self, store: Store[DeploymentFacts], raw: Mapping[str, Any], enqueue: Callable[[str], None]) -> None:
        """The label that made this Deployment ours was removed: reconcile, which puts it back."""
        uid = raw["metadata"].get("uid")
        for key in [key for key in store if (known := store.get(key)) is not None and known.uid == uid]:
            store.remove(key)
            enqueue(key)

    def _deployment(
        self,
        store: Store[DeploymentFacts],
        key: str,
        raw: Mapping[str, Any],
        enqueue: Callable[[str], None],
        *,
        gone: bool,
    ) -> None:
        if gone:
            known = store.get(key)
            if known is not None and known.uid != raw["metadata"].get("uid"):
                return
            store.remove(key, resource_version(raw))
        elif not store.put(key, deployment_facts(raw)):
            return
        enqueue(key)

    def pod(self, raw: Mapping[str, Any], *, gone: bool) -> None:
        key = facts.object_key(raw)
        record = facts.pod_record(raw)
        if gone:
            self._cache.remove_pod(key, record.resource_version)
        else:
            self._cache.put_pod(key, record)
        if record.facts.function:
            self._enqueue(names.function_key(record.facts.namespace, record.facts.function))

    def config_map(self, raw: Mapping[str, Any], *, gone: bool) -> None:
        key = facts.object_key(raw)
        if gone:
            self._cache.config_maps.remove(key, resource_version(raw))
        else:
            self._cache.config_maps.put(key, facts.config_map_facts(raw))
        for user in list(self._cache.users_of.get(key, ())):
            self._enqueue(user)


def registry(watcher: Watcher, configuration: Callable[[], Awaitable[Configuration]]) -> OperatorRegistry:
    """kopf's handlers, in a registry of their own; `configuration()` is the floor's, with its credentials."""
    handlers = kopf.OperatorRegistry()

    async def login(**_: Any) -> ConnectionInfo:
        return await connection_info(await configuration())

    def handle(resource: tuple[str, str, str], take: Callable[..., None]) -> None:
        async def handler(event: Mapping[str, Any], **_: Any) -> None:
            try:
                take(event["object"], gone=event["type"] == "DELETED")
            except Exception:
                # A single object that cannot be read must not stop the watch.
                logger.exception("cannot read an object", extra={"object": facts.object_key(event["object"])})

        kopf.on.event(*resource, registry=handlers, id=take.__name__)(handler)

    # the credentials may be unreadable for a moment, and kopf would wait for a minute
    kopf.on.login(registry=handlers, id="login", backoff=1.0)(login)
    handle((names.GROUP, names.VERSION, names.PLURAL), watcher.function)
    handle(("apps", "v1", "deployments"), watcher.deployment)
    handle(("", "v1", "pods"), watcher.pod)
    handle(("", "v1", "configmaps"), watcher.config_map)
    return handlers


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf copies each object in full, for its change handlers. We have none, and that was nearly half of kopf's work
    for an event: time that a cold start's processes need more."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def settings(function_selector: str) -> OperatorSettings:
    """kopf, cut down to watching."""
    options = kopf.OperatorSettings()
    options.persistence.diffbase_storage = _NoDiffs()
    options.posting.enabled = False
    options.peering.standalone = True
    # Neither namespaces nor CRDs are watched: no right to do so is needed.
    options.scanning.disabled = True
    options.process.ultimate_exiting_timeout = None
    options.watching.server_timeout = 290
    options.watching.client_timeout = 310
    options.watching.connect_timeout = 10
    options.watching.reconnect_backoff = 0.1
    options.watching.chunk_size = 250
    options.watching.label_selectors[names.GROUP, names.VERSION, names.PLURAL] = function_selector
    options.watching.label_selectors["deployments"] = selectors.OURS
    options.watching.label_selectors["pods"] = selectors.OURS
    options.watching.field_selectors["configmaps"] = selectors.CONFIG_MAPS
    options.networking.request_timeout = 30
    # A task per object lives this long after its last event.
    options.queueing.idle_timeout = 0.5
    options.queueing.exit_timeout = 0.5
    return options


class _Connection(ConnectionInfo):
    """kopf's connection, verified as `kappa_kube.connection` does: without Python 3.13's X509_STRICT."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


async def connection_info(configuration: Configuration) -> ConnectionInfo:
    """The same address and credentials for kopf."""
    scheme, _, token = (await authorization(configuration)).partition(" ")
    return _Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )
