"""Bringing one Function to its spec: two writes, none the second time, and the same end wherever it is killed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kappa_core import names, scaling
from kappa_core.manifests import Platform, RuntimeImage
from kappa_kube.errors import ApiError
from kappa_operator.cache import Cache
from kappa_operator.reconcile import MISSING_GRACE, SOFT_STATUS_DELAY, Reconciler

KEY = "default/hello"
PLATFORM = Platform(runtimes={"python3.13": RuntimeImage(image="runtime:1")})


class Recorder:
    """Scaler, verifier, probes and events at once: remembers what it was called with."""

    def __init__(self) -> None:
        self.scaled: list[tuple[int, int]] = []
        self.considered: list[tuple[str, bool]] = []
        self.forgotten = 0
        self.events: list[tuple[str, str]] = []
        self.replicas: int | None = None
        self.init: dict[str, Any] = {}

    def update(self, key: str, spec: scaling.ScalingSpec, replicas: int, resource_version: int) -> None:
        self.scaled.append((replicas, spec.max_replicas))

    def wanted(self, key: str, default: int) -> int:
        return default if self.replicas is None else self.replicas

    def consider(self, key: str, function: Any, status: Any, revision: str, *, failing: bool) -> None:
        self.considered.append((revision, failing))

    def failures(self, key: str, pods: Any) -> dict[str, Any]:
        return self.init

    async def adopt(self, key: str, record: Any, deployment: Any, revision: str) -> None:
        return None

    async def abandon(self, key: str) -> None:
        return None

    def status_changed(self, record: Any, old: Any, new: Any) -> None:
        self.events.append((record.name, new.conditions[0].reason))

    def forget(self, key: str) -> None:
        self.forgotten += 1


class Operator:
    """A process: its cache and its memory go when it is killed."""

    def __init__(self, cluster: Any, clock: Any, platform: Platform = PLATFORM) -> None:
        self.cluster = cluster
        self.cache = Cache()
        self.told = Recorder()
        self.clock = clock
        self.reconciler = Reconciler(
            cluster.api,
            self.cache,
            platform,
            "http://gateway",
            self.told,
            self.told,
            self.told,
            self.told,
            self.told,
            clock=clock,
            now=lambda: "2026-01-01T00:00:00Z",
        )

    async def reconcile(self) -> float | None:
        self.cluster.fill(self.cache)
        return await self.reconciler.reconcile(KEY)

    async def settle(self) -> None:
        """As the work queue would: again, when it asks for that."""
        for _ in range(10):
            again = await self.reconcile()
            if again is None:
                return
            self.clock.advance(again)
        raise AssertionError("it does not come to rest")


@pytest.fixture
def operator(cluster: Any, clock: Any) -> Operator:
    return Operator(cluster, clock)


@pytest.fixture
def restarted(cluster: Any, clock: Any) -> Callable[[], Operator]:
    return lambda: Operator(cluster, clock)


async def test_a_new_function_takes_two_writes_and_no_read(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    assert await operator.reconcile() is None
    assert cluster.api.calls == [("PATCH", cluster.DEPLOYMENT), ("PATCH", f"{cluster.FUNCTION.format('hello')}/status")]
    assert cluster.condition()["reason"] == "Deployed"
    assert cluster.function()["status"]["url"] == "http://gateway/fn/default/hello"
    assert operator.told.events == [("hello", "Deployed")]


async def test_the_second_time_writes_nothing(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    await operator.settle()
    before, calls = copy.deepcopy(cluster.api.objects), len(cluster.api.calls)
    await operator.settle()
    assert cluster.api.objects == before
    assert len(cluster.api.calls) == calls


async def test_a_restart_changes_nothing_in_the_cluster(
    cluster: Any, operator: Operator, restarted: Callable[[], Operator]
) -> None:
    cluster.apply_function()
    await operator.settle()
    before = copy.deepcopy(cluster.api.objects)
    await restarted().settle()
    assert cluster.api.objects == before


async def test_it_starts_with_the_least_replicas_and_never_sets_them_again(cluster: Any, operator: Operator) -> None:
    cluster.apply_function(scaling={"minReplicas": 2})
    await operator.settle()
    assert cluster.deployment["spec"]["replicas"] == 2
    scaled = copy.deepcopy(cluster.deployment)
    scaled["spec"]["replicas"] = 7
    scaled["metadata"]["managedFields"][0]["fieldsV1"] = {"f:spec": {}}
    cluster.api.put(cluster.DEPLOYMENT, scaled)
    cluster.apply_function(handler="main.other")
    await operator.settle()
    assert cluster.deployment["spec"]["replicas"] == 7


async def test_a_change_before_the_first_scaling_keeps_the_replicas(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    await operator.settle()
    cluster.apply_function(handler="main.other")
    await operator.settle()
    assert cluster.deployment["spec"]["replicas"] == 0


@pytest.mark.parametrize("after", [False, True], ids=["before it takes effect", "after it took effect"])
@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("scenario", ["new", "changed", "unknown runtime", "orphan", "config map"])
async def test_killed_at_any_call_it_ends_the_same(
    scenario: str, call: int, after: bool, clock: Any, killed: type[BaseException], cluster: Any
) -> None:
    def prepare(where: Any) -> Any:
        if scenario == "changed":
            where.apply_function()
        if scenario == "orphan":
            where.api.put(
                where.DEPLOYMENT,
                {
                    "metadata": {
                        "name": "fn-hello",
                        "namespace": "default",
                        "uid": "old",
                        "manager": "other",
                        "labels": {names.LABEL_FUNCTION: "hello"},
                        "ownerReferences": [
                            {"kind": "Function", "name": "hello", "uid": "uid-hello", "controller": True}
                        ],
                    },
                    "spec": {"replicas": 1},
                },
            )
        if scenario == "config map":
            where.config_maps["default/code"] = {
                "metadata": {"name": "code", "namespace": "default"},
                "data": {"main.py": "x"},
            }
        return where

    async def act(where: Any, operator: Operator) -> None:
        if scenario == "changed" and not where.api.calls:
            await operator.settle()
        spec: dict[str, Any] = {"handler": "main.changed"}
        if scenario == "unknown runtime":
            spec = {"runtime": "ruby3"}
        if scenario == "config map":
            spec = {"code": {"configMap": {"name": "code"}}}
        where.apply_function(**spec)
        await operator.settle()

    calm = prepare(type(cluster)())
    await act(calm, Operator(calm, clock))

    prepare(cluster)

    def hook(count: int, done: bool) -> None:
        if count == call and done is after:
            raise killed

    cluster.api.hook = hook
    try:
        await act(cluster, Operator(cluster, clock))
    except killed:
        cluster.api.hook = lambda count, done: None
        if cluster.function()["metadata"]["generation"] < calm.function()["metadata"]["generation"]:
            await Operator(cluster, clock).settle()
            await act(cluster, Operator(cluster, clock))
        await Operator(cluster, clock).settle()
    assert _essence(cluster) == _essence(calm)


def _essence(cluster: Any) -> Any:
    def strip(item: Any) -> Any:
        item = copy.deepcopy(item)
        for key in ("resourceVersion", "generation"):
            item["metadata"].pop(key, None)
        return item

    return {path: strip(item) for path, item in cluster.api.objects.items()}


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_api_server_that_is_busy_raises_and_ends_the_same(
    cluster: Any, operator: Operator, status: int
) -> None:
    cluster.apply_function()

    def fail(count: int, done: bool) -> None:
        if count == 2 and not done:
            raise ApiError(status, "Busy", "try again", retry_after=1.0)

    cluster.api.hook = fail
    with pytest.raises(ApiError):
        await operator.reconcile()
    await operator.settle()
    assert cluster.condition()["status"] == "True"


async def test_a_deployment_that_is_gone_comes_back_as_it_was_scaled(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    await operator.settle()
    del cluster.api.objects[cluster.DEPLOYMENT]
    operator.told.replicas = 4
    await operator.settle()
    assert cluster.deployment["spec"]["replicas"] == 4


async def test_a_deployment_edited_by_hand_is_mended(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    await operator.settle()
    edited = copy.deepcopy(cluster.deployment)
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:1"
    cluster.api.put(cluster.DEPLOYMENT, edited)
    await operator.settle()
    assert cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "runtime:1"


async def test_a_deployment_of_another_owner_is_never_taken_over(cluster: Any, operator: Operator) -> None:
    theirs = cluster.api.put(
        cluster.DEPLOYMENT,
        {
            "metadata": {"name": "fn-hello", "namespace": "default", "uid": "t", "manager": "helm"},
            "spec": {"replicas": 1},
        },
    )
    cluster.apply_function()
    again = await operator.reconcile()
    assert cluster.deployment == theirs
    assert cluster.condition()["reason"] == "DeploymentConflict"
    assert "not made by Kappa" in cluster.condition()["message"]
    assert again is not None, "its end is not watched, so it is looked at again"
    assert operator.told.scaled == []
    calls = len(cluster.api.calls)
    await operator.reconcile()
    assert len(cluster.api.calls) == calls, "but not at every turn"


async def test_a_labelled_deployment_of_another_owner_is_a_conflict_too(cluster: Any, operator: Operator) -> None:
    cluster.api.put(
        cluster.DEPLOYMENT,
        {
            "metadata": {
                "name": "fn-hello",
                "namespace": "default",
                "uid": "t",
                "labels": {names.LABEL_FUNCTION: "hello"},
                "ownerReferences": [{"kind": "Rollout", "name": "x", "uid": "r", "controller": True}],
            },
            "spec": {"replicas": 1},
        },
    )
    cluster.apply_function()
    await operator.reconcile()
    assert "belongs to Rollout/x" in cluster.condition()["message"]


async def test_the_deployment_of_a_deleted_function_of_the_same_name_is_waited_for(
    cluster: Any, operator: Operator
) -> None:
    cluster.apply_function()
    await operator.settle()
    successor = copy.deepcopy(cluster.function())
    successor["metadata"]["uid"] = "uid-new"
    del successor["status"]
    cluster.api.put(cluster.FUNCTION.format("hello"), successor)
    assert await operator.reconcile() is not None
    assert "status" not in cluster.function(), "it is no conflict, so nothing is written"
    del cluster.api.objects[cluster.DEPLOYMENT]
    await operator.settle()
    assert cluster.deployment["metadata"]["ownerReferences"][0]["uid"] == "uid-new"


async def test_an_unknown_runtime_names_the_known_ones_and_leaves_what_runs(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    await operator.settle()
    before = copy.deepcopy(cluster.deployment)
    cluster.apply_function(runtime="ruby3")
    await operator.settle()
    assert cluster.condition()["reason"] == "UnknownRuntime"
    assert "python3.13" in cluster.condition()["message"]
    assert cluster.condition()["observedGeneration"] == 2
    assert cluster.deployment == before


async def test_a_spec_that_cannot_be_read_says_which_field(cluster: Any, operator: Operator) -> None:
    cluster.apply_function(concurrency="many")
    await operator.settle()
    assert cluster.condition()["reason"] == "InvalidSpec"
    assert "spec.concurrency" in cluster.condition()["message"]


async def test_a_missing_config_map_shows_after_a_moment_and_heals(cluster: Any, operator: Operator) -> None:
    cluster.apply_function(code={"configMap": {"name": "code"}})
    again = await operator.reconcile()
    assert again == pytest.approx(MISSING_GRACE)
    assert cluster.api.calls == [], "kubectl apply may still be sending it"
    operator.clock.advance(MISSING_GRACE)
    await operator.reconcile()
    assert cluster.condition()["reason"] == "ConfigMapNotFound"
    assert "'code'" in cluster.condition()["message"]
    assert cluster.DEPLOYMENT not in cluster.api.objects
    assert operator.cache.users_of == {"default/code": {KEY}}
    cluster.config_maps["default/code"] = {
        "metadata": {"name": "code", "namespace": "default"},
        "data": {"main.py": "x"},
    }
    await operator.settle()
    assert cluster.condition()["status"] == "True"


async def test_new_code_in_a_config_map_rolls_the_pods(cluster: Any, operator: Operator) -> None:
    cluster.apply_function(code={"configMap": {"name": "code"}})
    revisions = set()
    for version in ("1", "2"):
        cluster.config_maps["default/code"] = {
            "metadata": {"name": "code", "namespace": "default", "resourceVersion": version},
            "data": {"main.py": version},
        }
        await operator.settle()
        revisions.add(cluster.deployment["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_REVISION])
    assert len(revisions) == 2


async def test_a_config_map_that_env_names_must_have_the_key(cluster: Any, operator: Operator) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "level"}}
    cluster.config_maps["default/settings"] = {
        "metadata": {"name": "settings", "namespace": "default"},
        "data": {"other": ""},
    }
    cluster.apply_function(env=[{"name": "LEVEL", "valueFrom": reference}])
    await operator.settle()
    assert cluster.condition()["reason"] == "ConfigMissing"
    assert "spec.env[0] (LEVEL)" in cluster.condition()["message"]
    assert "no key 'level'" in cluster.condition()["message"]


@pytest.mark.parametrize(
    ("status", "reason"), [(422, "InvalidSpec"), (400, "InvalidSpec"), (403, "PodRejected")]
)  # fmt: skip
async def test_a_refusal_is_reported_and_not_tried_at_every_turn(
    cluster: Any, operator: Operator, status: int, reason: str
) -> None:
    def refuse(count: int, done: bool) -> None:
        if not done and cluster.api.calls[-1][1] == cluster.DEPLOYMENT:
            raise ApiError(status, "No", "spec.template: not like this")

    cluster.api.hook = refuse
    cluster.apply_function()
    await operator.reconcile()
    assert cluster.condition()["reason"] == reason
    assert "not like this" in cluster.condition()["message"]
    calls = len(cluster.api.calls)
    assert await operator.reconcile() is not None
    assert len(cluster.api.calls) == calls
    cluster.api.hook = lambda count, done: None
    cluster.apply_function(handler="main.better")
    await operator.settle()
    assert cluster.condition()["status"] == "True"


async def test_counts_of_pods_wait_a_moment_before_they_are_written(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()
    await operator.settle()
    up = copy.deepcopy(cluster.deployment)
    up["spec"]["replicas"], up["status"] = 1, {"replicas": 1}
    cluster.api.put(cluster.DEPLOYMENT, up)
    calls = len(cluster.api.calls)
    assert await operator.reconcile() == pytest.approx(SOFT_STATUS_DELAY)
    assert len(cluster.api.calls) == calls
    await operator.settle()
    assert cluster.function()["status"]["replicas"] == 1


async def test_a_function_that_is_gone_is_forgotten(cluster: Any, operator: Operator) -> None:
    cluster.apply_function(code={"configMap": {"name": "code"}})
    await operator.reconcile()
    del cluster.api.objects[cluster.FUNCTION.format("hello")]
    assert await operator.reconcile() is None
    assert operator.told.forgotten == 3
    assert operator.cache.users_of == {}


async def test_a_function_deleted_while_its_status_is_written_is_no_error(cluster: Any, operator: Operator) -> None:
    cluster.apply_function()

    def vanish(count: int, done: bool) -> None:
        if count == 1 and done:
            del cluster.api.objects[cluster.FUNCTION.format("hello")]

    cluster.api.hook = vanish
    assert await operator.reconcile() == 0.0, "it is forgotten at once, though no event said that it was deleted"
    assert await operator.reconcile() is None
    assert operator.told.forgotten == 3


async def test_a_pod_whose_runtime_waits_for_the_kubelets_back_off_is_replaced(
    cluster: Any, operator: Operator
) -> None:
    cluster.apply_function(runtime=None, handler=None, code={"image": {"ref": "team/app:1"}})
    await operator.settle()
    backs_off = {"waiting": {"reason": "CrashLoopBackOff"}}
    for name, agent_ready in [("fn-hello-1", True), ("fn-hello-2", False)]:
        cluster.pods[f"default/{name}"] = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": name,
                "labels": {names.LABEL_FUNCTION: "hello"},
            },
            "status": {
                "containerStatuses": [
                    {"name": "agent", "ready": agent_ready, "state": {"running": {}}},
                    {"name": "function", "ready": False, "state": backs_off},
                ]
            },
        }
    await operator.reconcile()
    deleted = [path for method, path in cluster.api.calls if method == "DELETE"]
    assert deleted == ["/api/v1/namespaces/default/pods/fn-hello-1"], (
        "one that never worked is not started over and over"
    )
