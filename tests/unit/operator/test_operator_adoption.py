"""Pool pods on their way to a Function's ReplicaSet: the same end wherever the operator is killed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kappa_core import names, pool, scaling
from kappa_core.demand import Claim
from kappa_core.manifests import Platform, RuntimeImage
from kappa_core.observed import PodFacts
from kappa_core.pool import PoolSettings
from kappa_kube.errors import ApiError
from kappa_operator.adoption import Adoption, Retirement
from kappa_operator.cache import Cache
from kappa_operator.reconcile import Reconciler

KEY = "default/hello"
PLATFORM = Platform(runtimes={"python3.13": RuntimeImage(image="runtime:1")})
SETTINGS = PoolSettings(size=2, public_key="a2V5")
PODS = "/api/v1/namespaces/default/pods"
REPLICA_SETS = "/apis/apps/v1/namespaces/default/replicasets"


def pod_path(name: str) -> str:
    return f"{PODS}/{name}"


def raw_pod(name: str, labels: dict[str, str], owner: str = "", *, ready: bool = True) -> dict[str, Any]:
    references = [{"kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}] if owner else []
    container = {"name": "function", "image": "runtime:1", "resources": {"limits": {"memory": "512Mi"}}}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": labels,
                     "annotations": {}, "ownerReferences": references},
        "spec": {"containers": [container]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}],
                   "containerStatuses": [{"name": "function", "state": {"running": {}}, "restartCount": 0}]},
    }  # fmt: skip


class Kubernetes:
    """The controllers of Deployments and ReplicaSets, one step at a time."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.api = cluster, cluster.api
        self.made = 0
        self.deleted: list[str] = []

    def free_pods(self, *pods: str) -> None:
        for name in pods:
            labels = {names.LABEL_POOL: "python3.13", names.POD_TEMPLATE_HASH: "pool", names.LABEL_MANAGED_BY: "kappa"}
            self.api.put(pod_path(name), raw_pod(name, labels, "pool"))

    def pods(self) -> dict[str, Any]:
        return {path.rsplit("/", 1)[1]: item for path, item in self.api.objects.items() if path.startswith(PODS)}

    def step(self) -> None:
        self._deployment()
        for name, item in self.pods().items():
            metadata = item["metadata"]
            if metadata["ownerReferences"] and names.LABEL_POOL not in metadata["labels"]:
                owner, label = metadata["ownerReferences"][0]["uid"], metadata["labels"].get(names.POD_TEMPLATE_HASH)
                if owner != label:
                    self.api.put(pod_path(name), {**item, "metadata": {**metadata, "ownerReferences": []}})
        for replica_set in [i for p, i in list(self.api.objects.items()) if p.startswith(REPLICA_SETS)]:
            self._replica_set(replica_set)

    def _deployment(self) -> None:
        path = self.cluster.DEPLOYMENT
        deployment = self.api.objects.get(path)
        if deployment is None:
            return
        revision = deployment["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_REVISION]
        known = {p: i for p, i in self.api.objects.items() if p.startswith(REPLICA_SETS)}
        number = len(known) + (f"{REPLICA_SETS}/{revision}" not in known)
        for place, item in known.items():
            if place != f"{REPLICA_SETS}/{revision}" and item["spec"]["replicas"]:
                self.api.put(place, {**item, "spec": {"replicas": 0}})
        mine = {
            "metadata": {
                "name": revision, "namespace": "default", "uid": revision,
                "labels": {names.LABEL_FUNCTION: "hello", names.POD_TEMPLATE_HASH: revision},
                "annotations": {"deployment.kubernetes.io/revision": str(number)},
                "ownerReferences": [{"uid": deployment["metadata"]["uid"], "controller": True}],
            },
            "spec": {"replicas": deployment["spec"].get("replicas", 1)},
        }  # fmt: skip
        before = known.get(f"{REPLICA_SETS}/{revision}")
        if before is None or before["spec"] != mine["spec"]:
            self.api.put(f"{REPLICA_SETS}/{revision}", mine if before is None else {**before, "spec": mine["spec"]})
        if deployment["status"].get("observedGeneration") != deployment["metadata"].get("generation"):
            status = {"observedGeneration": deployment["metadata"].get("generation")}
            self.api.put(path, {**deployment, "status": status})

    def _replica_set(self, replica_set: dict[str, Any]) -> None:
        uid = replica_set["metadata"]["uid"]
        own = []
        for name, item in self.pods().items():
            metadata = item["metadata"]
            owners = metadata["ownerReferences"]
            if metadata["labels"].get(names.POD_TEMPLATE_HASH) != uid or (owners and owners[0]["uid"] != uid):
                continue
            if not owners:
                owners = [{"kind": "ReplicaSet", "name": uid, "uid": uid, "controller": True}]
                item = self.api.put(pod_path(name), {**item, "metadata": {**metadata, "ownerReferences": owners}})
            own.append((item["status"]["conditions"][0]["status"] == "True", name))
        surplus = len(own) - replica_set["spec"]["replicas"]
        for _, name in sorted(own)[: max(0, surplus)]:
            del self.api.objects[pod_path(name)]
            self.deleted.append(name)
        for _ in range(-surplus):
            self.made += 1
            name = f"own-{self.made}"
            labels = {names.LABEL_FUNCTION: "hello", names.POD_TEMPLATE_HASH: uid}
            self.api.put(pod_path(name), raw_pod(name, labels, uid, ready=False))


class Told:
    """Verifier, probes and events that say nothing; and claims that pods have confirmed."""

    def __init__(self, cache: Cache, claims: dict[str, Claim]) -> None:
        self.cache, self.claims = cache, claims
        self.outcomes: list[str] = []

    def consider(self, *_: Any, **__: Any) -> None: ...
    def status_changed(self, *_: Any) -> None: ...
    def forget(self, key: str) -> None: ...

    def failures(self, key: str, pods: Any) -> dict[str, Any]:
        return {}

    def confirmed(self, key: str) -> list[tuple[PodFacts, Claim]]:
        return [(pod, self.claims[pod.uid]) for pod in self.cache.free_pods() if pod.uid in self.claims and key == KEY]

    def settled(self, pod_uid: str) -> None: ...


class Scaler:
    """Scales as `kappa_operator.scaler` does, at once: a write of its own."""

    def __init__(self, cluster: Any, demand: int) -> None:
        self.cluster, self.demand, self.most = cluster, demand, 10

    def update(self, key: str, spec: scaling.ScalingSpec, replicas: int, resource_version: int) -> None:
        self.most = spec.max_replicas
        self._scale(min(max(replicas, self.demand), self.most))

    def wanted(self, key: str, default: int) -> int:
        return default

    def taken_over(self, key: str, pods: int) -> None:
        deployment = self.cluster.deployment
        self._scale(max(deployment["spec"].get("replicas", 0), min(pods, self.most)))

    def _scale(self, replicas: int) -> None:
        deployment = self.cluster.deployment
        if deployment["spec"].get("replicas") != replicas:
            generation = deployment["metadata"].get("generation", 1) + 1
            self.cluster.api.put(
                self.cluster.DEPLOYMENT,
                {
                    **deployment,
                    "metadata": {**deployment["metadata"], "generation": generation},
                    "spec": {**deployment["spec"], "replicas": replicas},
                },
            )

    def forget(self, key: str) -> None: ...


class Operator:
    """A process: its cache and its memory go when it is killed; the gateways repeat the claims."""

    def __init__(
        self, cluster: Any, clock: Any, kubernetes: Kubernetes, claims: dict[str, Claim], demand: int = 0
    ) -> None:
        self.cluster, self.clock, self.kubernetes = cluster, clock, kubernetes
        self.cache = Cache()
        self.told = Told(self.cache, claims)
        scaler = Scaler(cluster, demand)
        self.adoption = Adoption(
            cluster.api,
            self.cache,
            PLATFORM,
            SETTINGS,
            scaler,
            self.told,
            Retirement(cluster.api, self.told.outcomes.append),
            self.told.outcomes.append,
            clock,
        )
        self.reconciler = Reconciler(
            cluster.api, self.cache, PLATFORM, "http://gateway", scaler, self.told, self.told, self.told, self.adoption,
            SETTINGS, clock=clock, now=lambda: "2026-01-01T00:00:00Z",
        )  # fmt: skip

    async def settle(self) -> None:
        for _ in range(120):
            before = copy.deepcopy(self.cluster.api.objects)
            self.cluster.fill(self.cache)
            again = await self.reconciler.reconcile(KEY)
            self.kubernetes.step()
            if again is None and self.cluster.api.objects == before:
                return
            self.clock.advance(again or 0.01)
        raise AssertionError("it does not come to rest")


@pytest.fixture
def kubernetes(cluster: Any) -> Kubernetes:
    return Kubernetes(cluster)


@pytest.fixture
def start(cluster: Any, clock: Any, kubernetes: Kubernetes) -> Callable[..., Operator]:
    return lambda claims, demand=0: Operator(cluster, clock, kubernetes, claims, demand)


def claims_for(cluster: Any, *pods: str) -> dict[str, Claim]:
    from kappa_operator.cache import function_record

    function = function_record(cluster.function()).function
    assert function is not None
    return {f"uid-{name}": Claim("default", "hello", name, f"uid-{name}", pool.spec_hash(function)) for name in pods}


def owners(kubernetes: Kubernetes) -> dict[str, str]:
    """Pod → `pool`, `function` or `nobody`."""
    kinds = {}
    for name, item in kubernetes.pods().items():
        owner = item["metadata"]["ownerReferences"]
        kinds[name] = ("pool" if owner[0]["uid"] == "pool" else "function") if owner else "nobody"
    return kinds


async def test_a_claimed_pod_takes_the_place_of_the_replica_sets_own(
    cluster: Any, kubernetes: Kubernetes, start: Any
) -> None:
    cluster.apply_function(memory="96Mi")
    kubernetes.free_pods("a", "b")
    operator = start(claims_for(cluster, "a"), demand=1)
    await operator.settle()
    assert owners(kubernetes) == {"a": "function", "b": "pool"}
    assert cluster.deployment["spec"]["replicas"] == 1
    adopted = kubernetes.pods()["a"]
    assert adopted["spec"]["containers"][0]["resources"]["limits"] == {"memory": "96Mi"}
    assert names.LABEL_POOL not in adopted["metadata"]["labels"]
    assert kubernetes.deleted == ["own-1"]
    assert operator.told.outcomes == ["taken_over", "adopted"]
    assert cluster.condition()["reason"] == "Running"
    assert cluster.function()["status"]["coldStart"]["path"] == "Pool"


async def test_a_pod_without_demand_finds_its_place_too(cluster: Any, kubernetes: Kubernetes, start: Any) -> None:
    cluster.apply_function()
    kubernetes.free_pods("a")
    await start(claims_for(cluster, "a")).settle()
    assert owners(kubernetes) == {"a": "function"}


async def test_several_at_once_beside_one_that_serves(cluster: Any, kubernetes: Kubernetes, start: Any) -> None:
    cluster.apply_function()
    kubernetes.free_pods("a", "b", "c")
    await start(claims_for(cluster, "a"), demand=1).settle()
    await start(claims_for(cluster, "a", "b", "c"), demand=3).settle()
    assert owners(kubernetes) == dict.fromkeys("abc", "function")
    assert cluster.deployment["spec"]["replicas"] == 3


async def test_no_more_than_max_replicas(cluster: Any, kubernetes: Kubernetes, start: Any) -> None:
    cluster.apply_function(scaling={"maxReplicas": 2})
    kubernetes.free_pods("a", "b", "c")
    operator = start(claims_for(cluster, "a", "b", "c"), demand=2)
    await operator.settle()
    assert list(owners(kubernetes).values()) == ["function"] * 2
    assert operator.told.outcomes.count("retired") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"timeout": "7s"},
        {"serviceAccountName": "robot"},
        {"scaling": {"maxReplicas": 0}},
        None,
    ],
    ids=["changed", "not for the pool any more", "may not run", "deleted"],
)
async def test_a_pod_that_cannot_be_adopted_goes(
    cluster: Any, kubernetes: Kubernetes, start: Any, clock: Any, change: dict[str, Any] | None
) -> None:
    cluster.apply_function()
    kubernetes.free_pods("a", "b")
    claims = claims_for(cluster, "a")
    if change is None:
        del cluster.api.objects[cluster.FUNCTION.format("hello")]
    else:
        cluster.apply_function(**change)
    began = clock.now
    await start(claims).settle()
    assert owners(kubernetes) == {"b": "pool"}
    assert clock.now - began < 30


async def test_a_pod_that_nothing_wants_goes_within_30_seconds(
    cluster: Any, kubernetes: Kubernetes, start: Any, clock: Any
) -> None:
    """As where the Deployment of this name has another owner."""
    cluster.apply_function()
    kubernetes.free_pods("a")
    metadata = {
        "name": "fn-hello",
        "namespace": "default",
        "uid": "theirs",
        "labels": {names.LABEL_FUNCTION: "hello"},
        "manager": "other",
    }
    cluster.api.put(
        cluster.DEPLOYMENT,
        {
            "metadata": metadata,
            "spec": {"replicas": 0, "template": {"metadata": {"annotations": {names.ANNOTATION_REVISION: "x"}}}},
            "status": {},
        },
    )
    operator = start(claims_for(cluster, "a"))
    began = clock.now
    while kubernetes.pods() and clock.now < began + 30:
        cluster.fill(operator.cache)
        again = await operator.reconciler.reconcile(KEY)
        clock.advance(again if again is not None else 1.0)
    assert not kubernetes.pods()


async def test_a_node_that_is_too_full_leaves_the_pod_as_it_is(
    cluster: Any, kubernetes: Kubernetes, start: Any
) -> None:
    cluster.apply_function()
    kubernetes.free_pods("a")
    operator = start(claims_for(cluster, "a"))
    tries: list[int] = []

    async def refuse(path: str, body: Any) -> Any:
        tries.append(1)
        raise ApiError(403, "Forbidden", "node didn't have enough allocatable resources")

    cluster.api.strategic_patch = refuse
    await operator.settle()
    assert owners(kubernetes) == {"a": "function"}
    assert len(tries) == 1


async def test_a_pod_that_was_restarted_is_replaced(cluster: Any, kubernetes: Kubernetes, start: Any) -> None:
    cluster.apply_function()
    kubernetes.free_pods("a")
    await start(claims_for(cluster, "a")).settle()
    pod = kubernetes.pods()["a"]
    pod["status"]["containerStatuses"][0]["restartCount"] = 1
    cluster.api.put(pod_path("a"), pod)
    await start({}).settle()
    assert "a" not in kubernetes.pods()


@pytest.mark.parametrize("after", [False, True], ids=["before it takes effect", "after it took effect"])
@pytest.mark.parametrize("call", range(1, 13))
@pytest.mark.parametrize("scenario", ["one", "burst", "changed", "deleted"])
async def test_killed_at_any_call_it_ends_the_same(
    cluster: Any,
    kubernetes: Kubernetes,
    start: Any,
    scenario: str,
    call: int,
    after: bool,
    killed: type[BaseException],
) -> None:
    cluster.apply_function()
    await start({}).settle()
    pods = ("a", "b", "c") if scenario == "burst" else ("a",)
    kubernetes.free_pods(*pods, "free")
    claims = claims_for(cluster, *pods)
    if scenario == "changed":
        cluster.apply_function(timeout="7s")
    if scenario == "deleted":
        del cluster.api.objects[cluster.FUNCTION.format("hello")]
    first = len(cluster.api.calls)

    def hook(count: int, done: bool) -> None:
        if count == first + call and done is after:
            raise killed

    cluster.api.hook = hook
    try:
        await start(claims, demand=0 if scenario in ("changed", "deleted") else len(pods)).settle()
    except killed:
        cluster.api.hook = lambda count, done: None
        kubernetes.step()
        await start(claims, demand=0 if scenario in ("changed", "deleted") else len(pods)).settle()
    left = owners(kubernetes)
    assert left.pop("free") == "pool"
    assert left == ({} if scenario in ("changed", "deleted") else dict.fromkeys(pods, "function"))
