"""The warm pools' Deployments: there while a Function uses them, as large as asked, and gone after that."""

from collections.abc import Callable
from typing import Any

import pytest

from kappa_core import names, pool
from kappa_core.manifests import Platform, RuntimeImage
from kappa_core.pool import PoolSettings
from kappa_operator.cache import Cache
from kappa_operator.pools import LEAVE_SECONDS, LINGER_SECONDS, Pools

PLATFORM = Platform(runtimes={"python3.13": RuntimeImage(image="runtime:1")})
SETTINGS = PoolSettings(size=2, max_size=4, public_key="a2V5")
POOL = "/apis/apps/v1/namespaces/default/deployments/pool-python3-13"
KEY = "default/python3.13"


class Operator:
    """A process: its cache and its memory go when it is killed."""

    def __init__(
        self, cluster: Any, clock: Any, settings: PoolSettings = SETTINGS, platform: Platform = PLATFORM
    ) -> None:
        self.cluster, self.clock = cluster, clock
        self.cache = Cache()
        self.queue: set[str] = set()
        self.pools = Pools(cluster.api, self.cache, platform, settings, self.queue.add, clock)

    async def settle(self, *, wait: bool = True) -> None:
        self.cluster.fill(self.cache)
        self.pools.relisted()
        await self.work(wait=wait)

    async def work(self, *, wait: bool = False) -> None:
        """As the work queue would, with time for what asks for it."""
        for _ in range(20):
            keys, again = sorted(self.queue), set()
            self.queue.clear()
            for key in keys:
                delay = await self.pools.reconcile(key)
                if delay is not None and wait:
                    self.clock.advance(delay)
                    again.add(key)
            self.cluster.fill(self.cache)
            self.queue |= again
            if not self.queue:
                return
        raise AssertionError("it does not come to rest")


@pytest.fixture
def start(cluster: Any, clock: Any) -> Callable[..., Operator]:
    return lambda *args, **kwargs: Operator(cluster, clock, *args, **kwargs)


async def test_a_pool_comes_with_its_first_function_and_goes_with_its_last(
    cluster: Any, start: Any, clock: Any
) -> None:
    operator = start()
    await operator.settle()
    assert POOL not in cluster.api.objects
    for name in ("hello", "other"):
        cluster.apply_function(name)
        await operator.settle()
    assert cluster.api.objects[POOL]["spec"]["replicas"] == 2
    del cluster.api.objects[cluster.FUNCTION.format("hello")]
    await operator.settle()
    assert POOL in cluster.api.objects
    del cluster.api.objects[cluster.FUNCTION.format("other")]
    await operator.settle(wait=False)
    assert POOL in cluster.api.objects, "its Function may be about to be created again"
    clock.advance(LINGER_SECONDS)
    await operator.settle()
    assert POOL not in cluster.api.objects


async def test_the_second_time_writes_nothing_and_another_process_changes_nothing(cluster: Any, start: Any) -> None:
    cluster.apply_function()
    operator = start()
    await operator.settle()
    assert cluster.api.writes() == ["default/deployments/pool-python3-13"]
    await operator.settle()
    assert len(cluster.api.writes()) == 1
    version = cluster.api.objects[POOL]["metadata"]["resourceVersion"]
    await start().settle()
    assert cluster.api.objects[POOL]["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize("settings", [PoolSettings(), PoolSettings(size=2), PoolSettings(public_key="a2V5")])
async def test_pools_that_are_off_are_removed_by_the_next_operator(
    cluster: Any, start: Any, settings: PoolSettings
) -> None:
    cluster.apply_function()
    await start().settle()
    await start(settings).settle()
    assert POOL not in cluster.api.objects


async def test_a_new_image_rolls_the_pool(cluster: Any, start: Any) -> None:
    cluster.apply_function()
    await start().settle()
    await start(platform=Platform(runtimes={"python3.13": RuntimeImage(image="runtime:2")})).settle()
    assert cluster.api.objects[POOL]["spec"]["template"]["spec"]["containers"][0]["image"] == "runtime:2"


async def test_a_function_that_stops_using_the_pool_takes_it_along(cluster: Any, start: Any) -> None:
    cluster.apply_function()
    operator = start()
    await operator.settle()
    cluster.apply_function(serviceAccountName="robot")
    await operator.settle()
    assert POOL not in cluster.api.objects


async def test_a_runtime_that_is_not_there_has_no_pool(cluster: Any, start: Any) -> None:
    cluster.apply_function(runtime="python3.9")
    await start().settle()
    assert not cluster.api.writes()


async def test_claims_raise_a_pool_for_a_minute(cluster: Any, start: Any, clock: Any) -> None:
    cluster.apply_function()
    operator = start()
    await operator.settle()
    sizes = []
    for _ in range(3):
        operator.pools.claimed("default", "python3.13")
        await operator.work()
        sizes.append(cluster.api.objects[POOL]["spec"]["replicas"])
    assert sizes == [3, 4, 4]
    operator.queue.add(KEY)
    await operator.work(wait=True)
    assert clock.now >= 1000 + pool.CLAIM_WINDOW
    assert cluster.api.objects[POOL]["spec"]["replicas"] == 2


def marked(cluster: Any) -> set[str]:
    """The pods that gateways must not claim any more."""
    pods = {path.rsplit("/", 1)[1]: item for path, item in cluster.api.objects.items() if "/pods/" in path}
    return {name for name, pod in pods.items() if names.ANNOTATION_DELETION_COST in pod["metadata"]["annotations"]}


def put_pod(cluster: Any, name: str, *, ready: bool = True) -> None:
    labels = {names.LABEL_POOL: "python3.13", names.LABEL_MANAGED_BY: names.MANAGED_BY}
    cluster.api.put(
        f"/api/v1/namespaces/default/pods/{name}",
        {
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels, "annotations": {}},
            "spec": {"containers": [{"name": "function", "image": "runtime:1"}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}]},
        },
    )


def has_pods(cluster: Any, total: int) -> None:
    """What the Deployment's controller says once it has seen to what was asked."""
    found = cluster.api.objects[POOL]
    status = {"observedGeneration": found["metadata"].get("generation", 0), "replicas": total}
    cluster.api.put(POOL, {**found, "status": status})


@pytest.fixture
async def shrinking(cluster: Any, start: Any, clock: Any) -> Operator:
    """A pool of three that has just become one too large."""
    cluster.apply_function()
    operator: Operator = start()
    await operator.settle()
    operator.pools.claimed("default", "python3.13")
    await operator.work()
    for name in "abc":
        put_pod(cluster, name)
    has_pods(cluster, 3)
    cluster.fill(operator.cache)
    clock.advance(pool.CLAIM_WINDOW)
    return operator


async def test_a_pod_that_goes_is_marked_before_the_pool_shrinks(cluster: Any, shrinking: Operator, clock: Any) -> None:
    assert await shrinking.pools.reconcile(KEY) == LEAVE_SECONDS
    assert (marked(cluster), cluster.api.objects[POOL]["spec"]["replicas"]) == ({"a"}, 3)
    clock.advance(LEAVE_SECONDS / 2)
    assert await shrinking.pools.reconcile(KEY) == LEAVE_SECONDS / 2
    clock.advance(LEAVE_SECONDS / 2)
    assert await shrinking.pools.reconcile(KEY) == LEAVE_SECONDS, "it looks whether the marked pod is gone"
    assert (marked(cluster), cluster.api.objects[POOL]["spec"]["replicas"]) == ({"a"}, 2)


async def test_a_pod_that_stays_after_all_loses_its_mark(cluster: Any, shrinking: Operator) -> None:
    await shrinking.pools.reconcile(KEY)
    shrinking.pools.claimed("default", "python3.13")
    assert await shrinking.pools.reconcile(KEY) == pool.CLAIM_WINDOW
    assert (marked(cluster), cluster.api.objects[POOL]["spec"]["replicas"]) == (set(), 3)


async def test_a_marked_pod_that_stays_because_another_one_went_loses_its_mark(
    cluster: Any, shrinking: Operator, clock: Any
) -> None:
    await shrinking.pools.reconcile(KEY)
    put_pod(cluster, "d", ready=False)
    clock.advance(LEAVE_SECONDS)
    await shrinking.pools.reconcile(KEY)
    for unheard in (3, 4):
        has_pods(cluster, unheard)
        cluster.fill(shrinking.cache)
        await shrinking.pools.reconcile(KEY)
        assert marked(cluster) == {"a"}, "the ReplicaSet has not deleted any yet, and goes by the marks"
    del cluster.api.objects["/api/v1/namespaces/default/pods/d"]
    has_pods(cluster, 2)
    await shrinking.settle()
    assert (marked(cluster), cluster.api.objects[POOL]["spec"]["replicas"]) == (set(), 2)


async def test_a_restarted_operator_waits_again_before_it_shrinks_a_pool(
    cluster: Any, start: Any, shrinking: Operator, clock: Any
) -> None:
    await shrinking.pools.reconcile(KEY)
    clock.advance(LEAVE_SECONDS)
    second: Operator = start()
    cluster.fill(second.cache)
    second.pools.relisted()
    assert await second.pools.reconcile(KEY) == LEAVE_SECONDS
    assert (marked(cluster), cluster.api.objects[POOL]["spec"]["replicas"]) == ({"a"}, 3)


async def test_changes_by_others_are_undone(cluster: Any, start: Any) -> None:
    cluster.apply_function()
    operator = start()
    await operator.settle()
    cluster.api.put(POOL, {**cluster.api.objects[POOL], "spec": {**cluster.api.objects[POOL]["spec"], "replicas": 0}})
    await operator.settle()
    assert cluster.api.objects[POOL]["spec"]["replicas"] == 2
    del cluster.api.objects[POOL]
    await operator.settle()
    assert POOL in cluster.api.objects


async def test_a_deployment_of_another_owner_is_left_alone(cluster: Any, start: Any) -> None:
    cluster.apply_function()
    metadata = {"name": "pool-python3-13", "namespace": "default", "uid": "theirs", "labels": {"app": "x"}}
    cluster.api.put(POOL, {"metadata": metadata, "spec": {"replicas": 1}})
    operator = start()
    await operator.settle(wait=False)
    assert not cluster.api.writes()
    assert names.LABEL_POOL not in cluster.api.objects[POOL]["metadata"]["labels"]


@pytest.mark.parametrize("after", [False, True], ids=["before it takes effect", "after it took effect"])
@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("scenario", ["new", "gone"])
async def test_killed_at_any_call_it_ends_the_same(
    cluster: Any, start: Any, scenario: str, call: int, after: bool, killed: type[BaseException]
) -> None:
    cluster.apply_function()
    if scenario == "gone":
        await start().settle()
        del cluster.api.objects[cluster.FUNCTION.format("hello")]
    first = len(cluster.api.calls)

    def hook(count: int, done: bool) -> None:
        if count == first + call and done is after:
            raise killed

    cluster.api.hook = hook
    try:
        await start().settle()
    except killed:
        cluster.api.hook = lambda count, done: None
        await start().settle()
    assert (POOL in cluster.api.objects) is (scenario == "new")
