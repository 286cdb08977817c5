"""Claims of pool pods: gateways report them, the pod confirms one, and a specialized pod without one is retired."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kappa_core import adoption, names
from kappa_core.demand import Claim, DemandReport
from kappa_core.observed import PodFacts, pod_facts
from kappa_kube.errors import Disconnected
from kappa_operator.cache import Cache, PodRecord
from kappa_operator.claims import Claims

HELLO = ("default/hello", "1")


def claim(pod: str, function: str = "hello", spec_hash: str = "1") -> Claim:
    return Claim("default", function, pod, f"uid-{pod}", spec_hash)


class Pods:
    """Pool pods and what their agents say; `said` is None for one that does not answer or is not specialized."""

    def __init__(self, clock: Any) -> None:
        self.cache, self.clock = Cache(), clock
        self.said: dict[str, tuple[str, str] | None] = {}
        self.queued: list[str] = []
        self.claimed: list[str] = []
        self.retired: list[str] = []
        self.claims = Claims(self.cache, "", self.queued.append, self._claimed, self._retire, clock)
        self.claims._ask = self._ask  # type: ignore[method-assign]  # instead of HTTP
        self.claims._session = object()  # type: ignore[assignment]

    def add(self, name: str, said: tuple[str, str] | None = None, **labels: str) -> None:
        raw = {
            "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "1",
                         "labels": {names.LABEL_POOL: "python3.13", **labels}},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{"state": {"running": {}}}]},
        }  # fmt: skip
        self.cache.put_pod(f"default/{name}", PodRecord(1, pod_facts(raw)))
        self.said[name] = said

    def report(self, gateway: str, *claims: Claim, full: bool = True) -> None:
        self.claims.report(gateway, DemandReport(gateway, full, (), claims))

    def confirmed(self) -> list[str]:
        return [pod.name for pod, _ in self.claims.confirmed("default/hello")]

    def _claimed(self, namespace: str, runtime: str) -> None:
        self.claimed.append(f"{namespace}/{runtime}")

    async def _ask(self, pod: PodFacts) -> tuple[str, str] | None:
        return self.said[pod.name]

    async def _retire(self, pod: PodFacts, why: str) -> None:
        self.retired.append(pod.name)
        self.cache.remove_pod(f"default/{pod.name}")


@pytest.fixture
def pods(clock: Any) -> Pods:
    return Pods(clock)


async def soon(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing here tells of it
            await asyncio.sleep(0)


async def test_a_claim_is_confirmed_at_once(pods: Pods) -> None:
    pods.add("a", HELLO)
    pods.report("g", claim("a"), full=False)
    await soon(pods.confirmed)
    assert (pods.queued, pods.claimed) == (["default/hello"], ["default/python3.13"])
    pods.report("g", claim("a"))
    await pods.claims.look_around()
    assert pods.queued == ["default/hello"], "once"


async def test_a_claim_that_its_pod_hears_of_later_is_confirmed_then(pods: Pods) -> None:
    pods.add("a")
    pods.report("g", claim("a"))
    await asyncio.sleep(0)
    pods.said["a"] = HELLO
    await soon(pods.confirmed)


@pytest.mark.parametrize("said", [("default/victim", "1"), ("default/hello", "2"), ("other/hello", "1")])
async def test_a_pod_that_says_it_is_anothers_is_not_believed(pods: Pods, clock: Any, said: tuple[str, str]) -> None:
    pods.add("a", said)
    pods.report("g", claim("a"))
    began = clock.now
    while not pods.retired and clock.now < began + 60:
        await asyncio.sleep(0)
        await pods.claims.look_around()
        clock.advance(adoption.UNCLAIMED_SECONDS)
    assert (pods.confirmed(), pods.retired) == ([], ["a"])
    assert clock.now - began <= 30


async def test_two_gateways_that_claim_one_pod_must_agree(pods: Pods) -> None:
    pods.add("a", HELLO)
    pods.report("g", claim("a"))
    pods.report("h", claim("a", "other"))
    await pods.claims.look_around()
    await pods.claims.look_around()
    assert pods.confirmed() == []
    pods.report("h")
    await pods.claims.look_around()
    assert pods.confirmed() == ["a"]


async def test_a_specialized_pod_without_a_claim_is_retired_in_time(pods: Pods, clock: Any) -> None:
    pods.add("a", HELLO)
    pods.add("free")
    pods.add("theirs", HELLO, **{names.LABEL_OPERATOR: "canary"})
    began = clock.now
    while not pods.retired:
        await pods.claims.look_around()
        clock.advance(10)
    assert pods.retired == ["a"]
    assert clock.now - began <= 30


async def test_the_claim_of_a_gateway_that_died_is_still_good(pods: Pods) -> None:
    pods.add("a")
    pods.report("g", claim("a"))
    pods.said["a"] = HELLO
    await pods.claims.look_around()
    await soon(pods.confirmed)
    assert not pods.retired


async def test_a_claim_that_comes_late_saves_the_pod(pods: Pods, clock: Any) -> None:
    pods.add("a", HELLO)
    await pods.claims.look_around()
    clock.advance(adoption.UNCLAIMED_SECONDS - 1)
    pods.report("g", claim("a"))
    await pods.claims.look_around()
    clock.advance(60)
    await pods.claims.look_around()
    assert (pods.confirmed(), pods.retired) == (["a"], [])


async def test_nothing_is_remembered_of_pods_that_are_gone(pods: Pods) -> None:
    pods.add("a", HELLO)
    pods.report("g", claim("a"), claim("never"))
    await pods.claims.look_around()
    pods.cache.remove_pod("default/a")
    await pods.claims.look_around()
    assert not pods.claims._claims
    assert not pods.claims._confirmed


async def test_a_pod_that_cannot_be_deleted_is_tried_again(pods: Pods, clock: Any) -> None:
    pods.add("a", HELLO)
    real: Callable[[PodFacts, str], Awaitable[None]] = pods.claims._retire

    async def fail(pod: PodFacts, why: str) -> None:
        raise Disconnected("no answer in time")

    pods.claims._retire = fail
    await pods.claims.look_around()
    clock.advance(60)
    await pods.claims.look_around()
    pods.claims._retire = real
    await pods.claims.look_around()
    assert pods.retired == ["a"]
