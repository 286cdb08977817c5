"""The warm pools' Deployments: there while a Function uses them, as large as asked, and gone after that."""

from collections.abc import Callable
from typing import Any

import pytest

from kappa_core import names, pool
from kappa_core.manifests import Platform, RuntimeImage
from kappa_core.pool import PoolSettings
from kappa_operator.cache import Cache
from kappa_operator.pools import LINGER_SECONDS, Pools

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
    assert POOL in cluster.api.objects, "its Function may be about to be made anew"
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


async def test_what_somebody_did_to_it_is_undone(cluster: Any, start: Any) -> None:
    cluster.apply_function()
    operator = start()
    await operator.settle()
    cluster.api.put(POOL, {**cluster.api.objects[POOL], "spec": {**cluster.api.objects[POOL]["spec"], "replicas": 0}})
    await operator.settle()
    assert cluster.api.objects[POOL]["spec"]["replicas"] == 2
    del cluster.api.objects[POOL]
    await operator.settle()
    assert POOL in cluster.api.objects


async def test_a_deployment_of_somebody_else_is_left_alone(cluster: Any, start: Any) -> None:
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
