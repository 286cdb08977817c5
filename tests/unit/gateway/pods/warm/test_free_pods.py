"""Free pool pods: which are free, which one is taken, and who is left alone for how long."""

import asyncio

import pytest
from gateway_fakes import RUNTIME, FakePoolPod, readiness, until

from kappa_core import wire
from kappa_gateway.pods.platform import PoolPod
from kappa_gateway.pods.warm.free_pods import REFRESH, FreePods


async def test_a_pod_is_free_once_its_agent_says_that_it_is_in_a_pool(cluster):
    world = cluster()
    heard = []
    world.free_pods.subscribe(lambda *which: heard.append(which))
    server = world.put_pool_pod()
    server.ready = readiness(wire.INITIALIZING, "503 Unavailable")
    await until(lambda: server.asked >= 2)
    assert world.free_pods.counts() == {("default", RUNTIME, "free"): 0, ("default", RUNTIME, "starting"): 1}
    assert (world.free, world.free_pods.known("default", RUNTIME), heard) == (0, 1, [])
    server.ready = readiness(wire.POOL)
    await until(lambda: world.free == 1)
    assert world.free_pods.counts() == {("default", RUNTIME, "free"): 1, ("default", RUNTIME, "starting"): 0}
    assert heard == [("default", RUNTIME)]


@pytest.mark.parametrize(
    "answer",
    [
        readiness(wire.READY, function="default/other"),
        readiness(wire.POOL, function="default/other"),
        readiness(wire.DRAINING, "503 Unavailable"),
        readiness(wire.READY),
    ],
)
async def test_what_makes_a_pod_taken(cluster, answer):
    world = cluster()
    server = await world.add_pool_pod()
    server.ready = answer
    await until(lambda: world.free == 0, within=REFRESH + 1)
    asked = server.asked
    await asyncio.sleep(100.0)
    assert (world.free, server.asked) == (0, asked)
    assert not server.open


async def test_it_is_asked_again_over_one_connection(cluster):
    world = cluster()
    server = await world.add_pool_pod()
    await asyncio.sleep(10 * REFRESH + 1)
    assert server.asked == pytest.approx(11, abs=1)
    assert len(server.transports) == 1


async def test_a_pod_that_stops_and_starts_is_free_again(cluster):
    world = cluster()
    server = await world.add_pool_pod()
    server.accepts = False
    server.break_off()
    await until(lambda: world.free == 0)
    server.accepts = True
    await until(lambda: world.free == 1)


async def test_pods_without_an_address_are_known_and_not_free(cluster):
    world = cluster()
    world.registry.put_pool_pod(PoolPod("default", RUNTIME, "p", "u", None, 8080))
    await asyncio.sleep(1.0)
    assert (world.free, world.free_pods.known("default", RUNTIME)) == (0, 1)
    server = FakePoolPod("p", "10.0.0.9")
    world.loop.network["10.0.0.9", 8080] = server
    world.registry.put_pool_pod(PoolPod("default", RUNTIME, "p", "u", "10.0.0.9", 8080))
    await until(lambda: world.free == 1)


async def test_pods_that_leave_their_pool_are_not_taken_unless_they_stay_after_all(cluster):
    world = cluster()
    server = await world.add_pool_pod()
    pod = server.as_pool_pod
    leaving = PoolPod(pod.namespace, pod.runtime, pod.name, pod.uid, pod.host, pod.port, leaving=True)
    world.registry.put_pool_pod(leaving)
    assert world.free_pods.take("default", RUNTIME) is None
    world.registry.put_pool_pod(pod)
    await until(lambda: world.free == 1)


async def test_a_pod_of_the_same_name_is_another_one(cluster):
    world = cluster()
    server = await world.add_pool_pod()
    pod = server.as_pool_pod
    world.registry.put_pool_pod(PoolPod(pod.namespace, pod.runtime, pod.name, "another-uid", pod.host, pod.port))
    assert world.free == 0
    await until(lambda: world.free == 1)
    assert world.free_pods.take("default", RUNTIME).pod.uid == "another-uid"


async def test_a_taken_pod_is_the_takers_until_it_is_released(cluster):
    world = cluster()
    server = await world.add_pool_pod()
    taken = world.free_pods.take("default", RUNTIME)
    assert taken.endpoint.take() is not None, "its connection is open"
    assert world.free_pods.take("default", RUNTIME) is None
    world.registry.put_pool_pod(server.as_pool_pod)
    world.registry.replace_pool_pods([server.as_pool_pod])
    await asyncio.sleep(20.0)
    assert world.free == 0
    taken.endpoint.retire()
    world.free_pods.release(taken.pod)
    await until(lambda: world.free == 1)


async def test_one_that_is_shunned_is_dialled_again_only_after_that(cluster):
    world = cluster()
    server = await world.add_pool_pod()
    taken = world.free_pods.take("default", RUNTIME)
    taken.endpoint.retire()
    world.free_pods.release(taken.pod, shun=60.0)
    world.registry.put_pool_pod(server.as_pool_pod)
    await asyncio.sleep(59.0)
    assert world.free_pods.known("default", RUNTIME) == 0
    await until(lambda: world.free == 1, within=3.0)


async def test_a_pool_is_of_one_namespace_and_one_runtime(cluster):
    world = cluster()
    await world.add_pool_pod()
    assert world.free_pods.take("other", RUNTIME) is None
    assert world.free_pods.take("default", "python3.11") is None
    world.registry.remove_pool_pod("other", "pool-1")
    assert world.free == 1


async def test_gateways_reach_for_pods_in_orders_of_their_own(cluster):
    world = cluster()
    orders = set()
    pods = [FakePoolPod(f"pool-{number}", f"10.2.0.{number}") for number in range(8)]
    world.loop.network |= {(server.host, 8080): server for server in pods}
    for gateway in ("gateway-a", "gateway-b"):
        free_pods = FreePods(world.upstream, gateway, lambda: None)
        free_pods.replace([server.as_pool_pod for server in pods])
        await until(lambda free_pods=free_pods: free_pods.free("default", RUNTIME) == 8)
        orders.add(tuple(free_pods.take("default", RUNTIME).pod.name for _ in pods))
        await free_pods.close()
    assert len(orders) == 2
    assert {frozenset(order) for order in orders} == {frozenset(server.name for server in pods)}


async def test_pods_whose_connection_is_open_go_first(cluster):
    world = cluster()
    busy, idle = await world.add_pool_pod(), await world.add_pool_pod()
    busy_one = next(one for one in world.free_pods._all() if one.pod.name == busy.name)
    busy_one.endpoint.idle.clear()
    assert world.free_pods.take("default", RUNTIME).pod.name == idle.name


async def test_the_end_leaves_no_connection_and_no_task(cluster):
    world = cluster()
    servers = [await world.add_pool_pod(), world.put_pool_pod()]
    await world.free_pods.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [server.open for server in servers] == [[], []]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("pool pod")]
