"""A Kubernetes API in memory, with as much of server-side apply as reconciling needs."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from fake_clock import FakeClock

from kappa_core import names
from kappa_core.observed import deployment_facts
from kappa_kube.errors import ApiError
from kappa_operator import cache as facts
from kappa_operator.cache import Cache

Json = dict[str, Any]


class Killed(BaseException):
    """The process ended here."""


class FakeApi:
    """Objects by path. `calls` lists (method, path); `hook(count, done)` runs before and after each call (`done`)."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.hook: Callable[[int, bool], None] = lambda count, done: None
        self._versions = itertools.count(1)

    def writes(self) -> list[str]:
        return [path.rsplit("/namespaces/", 1)[1] for method, path in self.calls if method != "GET"]

    def put(self, path: str, item: Json) -> Json:
        item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[path] = item
        return item

    async def get(self, path: str, **query: str) -> Json:
        return self._call("GET", path, lambda: self._listed(path, **query) if query else self._found(path))

    async def merge_patch(self, path: str, body: Json) -> Json:
        return self._call("PATCH", path, lambda: self._merge(path, copy.deepcopy(body)))

    async def strategic_patch(self, path: str, body: Json) -> Json:
        return self._call("PATCH", path, lambda: self._resize(path.removesuffix("/resize"), body))

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        return self._call("PATCH", path, lambda: self._apply(path, copy.deepcopy(body), force))

    async def delete(self, path: str, uid: str) -> None:
        self._call("DELETE", path, lambda: self._delete(path, uid))

    def _call(self, method: str, path: str, effect: Callable[[], Json]) -> Json:
        self.calls.append((method, path))
        self.hook(len(self.calls), False)
        answer = copy.deepcopy(effect())
        self.hook(len(self.calls), True)
        return answer

    def _delete(self, path: str, uid: str) -> Json:
        if self.objects.get(path, {"metadata": {}})["metadata"].get("uid", uid) == uid:
            self.objects.pop(path, None)
        return {}

    def _listed(self, path: str, labelSelector: str = "") -> Json:
        key, _, value = labelSelector.partition("=")
        found = [item for place, item in self.objects.items() if place.startswith(f"{path}/")]
        return {"items": [item for item in found if item["metadata"].get("labels", {}).get(key) == value]}

    def _merge(self, path: str, body: Json) -> Json:
        known = self._found(path)
        if body["metadata"].get("uid", known["metadata"]["uid"]) != known["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "the UID in the precondition does not match")
        return self.put(path, _merged(known, body))

    def _resize(self, path: str, body: Json) -> Json:
        known = self._found(path)
        (wanted,) = body["spec"]["containers"]
        containers = [{**c, **wanted} if c["name"] == wanted["name"] else c for c in known["spec"]["containers"]]
        return self.put(path, {**known, "spec": {**known["spec"], "containers": containers}})

    def _found(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        return self.objects[path]

    def _apply(self, path: str, body: Json, force: bool) -> Json:
        if path.endswith("/status"):
            return self._apply_status(path.removesuffix("/status"), body)
        known = self.objects.get(path)
        if known is None:
            body["metadata"].update(uid=f"uid-of-{path}", generation=1)
            body["metadata"]["managedFields"] = [_managed(body)]
            body["status"] = {}
            return self.put(path, body)
        if not force and known["metadata"].get("manager") not in (None, names.FIELD_MANAGER):
            raise ApiError(409, "Conflict", "Apply failed with 1 conflict")
        wanted = body["metadata"].get("resourceVersion")
        if wanted not in (None, known["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", "the object has been modified")
        merged = copy.deepcopy(known)
        owned = known["metadata"].get("managedFields", [{}])[0].get("fieldsV1", {}).get("f:spec", {})
        replicas = body["spec"].get("replicas", 1 if "f:replicas" in owned else known["spec"].get("replicas", 1))
        merged["spec"] = {**body["spec"], "replicas": replicas}
        merged["metadata"].update(
            labels={**known["metadata"].get("labels", {}), **body["metadata"]["labels"]},
            **{key: value for key, value in body["metadata"].items() if key == "ownerReferences"},
            managedFields=[_managed(body)],
        )
        if merged == known:
            return known
        merged["metadata"]["generation"] = known["metadata"].get("generation", 0) + 1
        return self.put(path, merged)

    def _apply_status(self, path: str, body: Json) -> Json:
        known = self._found(path)
        if body["metadata"]["uid"] != known["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "the UID in the precondition does not match")
        if known.get("status") == body["status"]:
            return known
        return self.put(path, {**known, "status": body["status"]})


def _merged(known: Json, patch: Json) -> Json:
    """RFC 7386."""
    merged = {**known}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(known.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def _managed(body: Json) -> Json:
    fields = {"f:replicas": {}} if "replicas" in body["spec"] else {}
    return {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": fields}}


class Cluster:
    """A namespace as a user sees it, and the caches as a fresh list would fill them."""

    DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/fn-hello"
    FUNCTION = "/apis/kappa.run/v1alpha1/namespaces/default/functions/{}"

    def __init__(self) -> None:
        self.api = FakeApi()
        self.config_maps: dict[str, Json] = {}
        self.pods: dict[str, Json] = {}

    def apply_function(self, name: str = "hello", **spec: Any) -> Json:
        path = self.FUNCTION.format(name)
        known = self.api.objects.get(path, {"metadata": {"generation": 0, "uid": f"uid-{name}"}})
        defaults = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x = 1"}}
        metadata = {
            **known["metadata"],
            "name": name,
            "namespace": "default",
            "generation": known["metadata"]["generation"] + 1,
        }
        merged = {key: value for key, value in {**defaults, **spec}.items() if value is not None}
        return self.api.put(path, {**known, "metadata": metadata, "spec": merged})

    def function(self, name: str = "hello") -> Json:
        return self.api.objects[self.FUNCTION.format(name)]

    def condition(self, kind: str = "Ready", name: str = "hello") -> Json:
        return next(c for c in self.function(name)["status"]["conditions"] if c["type"] == kind)

    @property
    def deployment(self) -> Json:
        return self.api.objects[self.DEPLOYMENT]

    def fill(self, cache: Cache) -> Cache:
        """What lists would bring: everything there is, and nothing else."""
        stores = (cache.functions, cache.deployments, cache.pools, cache.pods, cache.config_maps)
        for store in stores:
            store.begin_relist()
        functions, deployments, pools, pods = {}, {}, {}, {}
        for path, item in self.api.objects.items():
            if "/functions/" in path:
                functions[facts.object_key(item)] = facts.function_record(item)
            elif (key := facts.deployment_function_key(item)) is not None:
                deployments[key] = deployment_facts(item)
            elif (key := facts.deployment_pool_key(item)) is not None and "/deployments/" in path:
                pools[key] = deployment_facts(item)
            elif "/pods/" in path:
                pods[facts.object_key(item)] = facts.pod_record(item)
        cache.pools.end_relist(pools)
        cache.functions.end_relist(functions)
        cache.deployments.end_relist(deployments)
        cache.config_maps.end_relist({key: facts.config_map_facts(raw) for key, raw in self.config_maps.items()})
        pods.update({key: facts.pod_record(raw) for key, raw in self.pods.items()})
        cache.pods.end_relist(pods)
        cache.reindex_pods()
        return cache


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def killed() -> type[BaseException]:
    return Killed


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
