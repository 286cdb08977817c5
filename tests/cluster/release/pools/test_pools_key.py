"""Another key for gateways and pools: nothing fails meanwhile, and then cold starts come from the pools again."""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubectl import Kubectl
from nacl.signing import SigningKey
from waiting import eventually, eventually_sync

from kappa_core import wire

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

SYSTEM = "kappa-system"
SECRET = "kappa-pools"
PARTS = ("deployment/kappa-gateway", "deployment/kappa-operator")
CODE = "def handler(event, context): return event"


@pytest.fixture
def rotate(kubectl: Kubectl, release: Any) -> Iterator[Callable[[str], None]]:
    """The ways of docs/install.md, by name."""

    def with_kubectl() -> None:
        key = base64.b64encode(base64.b64encode(bytes(SigningKey.generate()))).decode()
        patch = f'{{"data": {{"private-key": "{key}"}}}}'
        kubectl("patch", "secret", SECRET, "--type=merge", "--patch", patch, namespace=SYSTEM)
        kubectl("rollout", "restart", *PARTS, namespace=SYSTEM)
        for part in PARTS:
            kubectl("rollout", "status", part, "--timeout=120s", namespace=SYSTEM)

    def with_helm() -> None:
        kubectl("delete", "secret", SECRET, namespace=SYSTEM)
        release.install()

    def by(way: str) -> None:
        {"kubectl": with_kubectl, "helm": with_helm}[way]()

    yield by
    if kubectl.find("secrets", SECRET, namespace=SYSTEM) is None:
        release.install()


@pytest.mark.parametrize("way", ["kubectl", "helm"])
async def test_another_key_fails_no_request_and_pools_serve_again(
    new_function: Callable[..., Any],
    pools: Any,
    pool_key: Callable[[], SigningKey],
    kubectl: Kubectl,
    gateways: Callable[[], list[dict[str, Any]]],
    load: Any,
    rotate: Callable[[str], None],
    way: str,
) -> None:
    cold = [new_function(CODE, scaling={"maxReplicas": 4, "keepWarm": "1s"}) for _ in range(3)]
    warm = new_function(CODE, scaling={"maxReplicas": 4, "keepWarm": "5m"})
    for function in (*cold, warm):
        pools.wait_until_cold(function)
    assert pools.cold_start(await warm.invoke())[0] == "pool"
    before, old = public(pool_key()), [f"pod/{pod['metadata']['name']}" for pod in gateways()]

    async with load(warm, callers=1) as seen, starts(cold) as answers:
        await asyncio.to_thread(rotate, way)
        await asyncio.to_thread(kubectl, "wait", *old, "--for=delete", "--timeout=120s", namespace=SYSTEM)
        now = public(pool_key())
        assert now != before
        mark = len(answers)
        await eventually(lambda: is_served(answers[mark:]), within=60)
    seen.assert_all_good()
    assert not [f"{each.status} {each.body!r}" for each in answers if each.status != 200]
    eventually_sync(lambda: keys(pools, warm.namespace) == {now}, within=90)

    again = new_function(CODE, scaling={"maxReplicas": 4, "keepWarm": "2m"})
    pools.wait_until_cold(again)
    answer = await again.invoke({"a": 1})
    assert answer.json() == {"a": 1}
    assert pools.cold_start(answer)[0] == "pool", answer.headers
    eventually_sync(lambda: pools.is_adopted(again), within=30)


def public(key: SigningKey) -> str:
    return base64.b64encode(bytes(key.verify_key)).decode()


def keys(pools: Any, namespace: str) -> set[str]:
    """What the pool's pods check with; of the free ones that are ready, two at least."""
    free = pools.free(namespace)
    assert len(free) >= 2
    env = [{each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]} for pod in free]
    return {str(each["KAPPA_POOL_PUBLIC_KEY"]) for each in env}


@contextlib.asynccontextmanager
async def starts(functions: list[Any]) -> Any:
    """Calls them until the block ends, each again once it has no pods any more; the answers."""
    answers: list[Any] = []
    stop = asyncio.Event()

    async def cold_or_over(function: Any) -> bool:
        return stop.is_set() or not await asyncio.to_thread(function.pods)

    async def call(function: Any) -> None:
        while not stop.is_set():
            answers.append(await function.invoke())
            await eventually(lambda: cold_or_over(function), within=60, every=0.5)

    async with asyncio.TaskGroup() as group:
        for function in functions:
            group.create_task(call(function))
        try:
            yield answers
        finally:
            stop.set()


async def is_served(answers: list[Any]) -> bool:
    """Whether a pool served one of them."""
    return any(answer.headers.get(wire.COLD_START, "").startswith("pool;") for answer in answers)
