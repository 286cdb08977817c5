"""What a backend reports, applied: functions and pods that come, change, move and go, in any order."""

import asyncio

import pytest
from gateway_fakes import Cluster, FakePod, VirtualLoop, VirtualTime, manifest, readiness, until
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_core import wire
from kappa_gateway.pods.platform import Peer, Pod
from kappa_gateway.pods.state import PodStatus


def pod(name="p", *, host="10.0.0.9", function="hello", concurrency=1, **more):
    return Pod("default", name, function, host, 8080, concurrency, more.pop("protocol", "lambda"), **more)


# -- functions


async def test_synced_once_functions_and_pods_were_listed(cluster):
    world = cluster()
    assert world.functions.synced.is_set()


@pytest.mark.parametrize("order", [("functions", "pods"), ("pods", "functions")])
async def test_one_list_alone_is_not_enough(cluster, order):
    world = cluster()
    world.functions.synced.clear()
    world.registry._listed.clear()
    for number, what in enumerate(order):
        assert not world.functions.synced.is_set()
        if what == "functions":
            world.registry.replace_functions([manifest()])
        else:
            world.registry.replace_pods([])
        assert world.functions.synced.is_set() is (number == 1)


async def test_a_new_list_of_functions_forgets_those_that_are_not_in_it(cluster):
    world = cluster()
    world.registry.replace_functions([manifest("other")])
    assert world.functions.get("default", "hello") is None
    assert world.functions.get("default", "other") is not None


async def test_a_changed_function_keeps_its_record_and_its_pods(cluster):
    world = cluster()
    _, state = await world.add()
    world.registry.put_function(manifest(timeout="7s"))
    assert world.functions.get("default", "hello") is world.function
    assert (world.function.timeout, state.function) == (7.0, world.function)


async def test_a_deleted_functions_record_goes_with_its_last_pod(cluster):
    world = cluster()
    _, state = await world.add()
    world.registry.remove_function("default", "hello")
    assert list(world.functions) == [world.function], "its pod may still run something"
    world.registry.remove_pod("default", state.name)
    assert list(world.functions) == []


async def test_a_pod_may_be_seen_before_its_function(cluster):
    world = cluster()
    world.put(FakePod(), "early", function="later")
    assert world.functions.get("default", "later") is None
    world.registry.put_function(manifest("later"))
    assert list(world.functions.get("default", "later").pods) == ["early"]


# -- pods


async def test_a_pod_is_dialled_once_its_address_is_known(cluster):
    world = cluster()
    world.loop.network["10.0.0.9", 8080] = FakePod()
    world.registry.put_pod(pod(host=None))
    state = world.dispatcher.pod("default", "p")
    assert state.endpoint is None
    VirtualTime.now += 5
    world.registry.put_pod(pod())
    await until(lambda: state.status is PodStatus.READY)
    assert state.start.addressed == state.start.seen + 5
    assert state in world.function.available


async def test_the_same_report_again_changes_nothing(cluster):
    world = cluster()
    server, state = await world.add(concurrency=2)
    before = (state.status, state.endpoint, state.start.addressed, server.asked, len(server.transports))
    for _ in range(3):
        world.registry.put_pod(state.observed)
    world.registry.replace_pods([state.observed])
    assert world.dispatcher.pod("default", state.name) is state
    assert (state.status, state.endpoint, state.start.addressed, server.asked, len(server.transports)) == before


@pytest.mark.parametrize(
    "change",
    [{"host": "10.0.0.8"}, {"function": "other"}, {"protocol": "http"}],
    ids=["address", "function", "protocol"],
)
async def test_what_was_learned_of_another_pod_is_void(cluster, change):
    world = cluster()
    server, state = await world.add(name="p", host="10.0.0.9")
    world.registry.put_pod(pod(**change))
    found = world.dispatcher.pod("default", "p")
    assert found is not state
    assert (state.status, found.status) == (PodStatus.GONE, PodStatus.STARTING)
    assert state not in world.function.serving
    await until(lambda: not any(one in server.open for one in server.transports[:1]))


async def test_a_new_capacity_opens_slots(cluster):
    world = cluster()
    _, state = await world.add(name="p", host="10.0.0.9")
    world.registry.put_pod(pod(concurrency=5))
    assert (state.capacity, state.limit) == (5, 5)


async def test_a_terminating_pod_gets_nothing_new(cluster):
    world = cluster()
    server, state = await world.add(name="p", host="10.0.0.9")
    world.registry.put_pod(pod(terminating=True))
    assert state.status is PodStatus.DRAINING
    assert state not in world.function.available
    await until(lambda: not server.open)
    world.registry.put_pod(pod())
    assert state.status is PodStatus.DRAINING, "for good"


async def test_a_terminating_pod_is_dialled_no_more(cluster):
    world = cluster()
    server = FakePod(ready=readiness(wire.INITIALIZING, "503 Unavailable"))
    state = world.put(server, "p", host="10.0.0.9")
    await until(lambda: server.asked)
    world.registry.put_pod(pod(terminating=True))
    server.ready = readiness(wire.READY)
    await until(lambda: not server.open)
    assert state.status is PodStatus.DRAINING


async def test_a_new_list_forgets_the_pods_that_are_not_in_it(cluster):
    world = cluster()
    first, gone = await world.add()
    _, stays = await world.add()
    world.registry.replace_pods([stays.observed])
    assert world.dispatcher.pods() == [stays]
    assert gone.status is PodStatus.GONE
    await until(lambda: not first.open)


# -- pools


async def test_a_claimed_pod_outlives_a_list_that_does_not_show_it_yet(cluster):
    world = cluster(pool=True)
    await world.add_pool_pod()
    claimed = world.book.open(world.function, world.free_pods.take("default", "python3.13"), 0.0)
    world.dispatcher.add(claimed)
    world.registry.replace_pods([])
    assert world.dispatcher.pods() == [claimed]
    world.registry.put_pod(claimed.observed)
    assert list(world.book) == []
    world.registry.replace_pods([])
    assert world.dispatcher.pods() == []


async def test_a_pod_that_is_a_functions_is_not_free(cluster):
    world = cluster(pool=True)
    server = await world.add_pool_pod()
    world.registry.put_pod(pod(server.name, host=server.host))
    assert world.free == 0


async def test_a_new_list_of_pool_pods_forgets_those_that_are_not_in_it(cluster):
    world = cluster(pool=True)
    first, second = await world.add_pool_pod(), await world.add_pool_pod()
    world.registry.replace_pool_pods([second.as_pool_pod])
    assert world.free == 1
    await until(lambda: not first.open)


async def test_the_gateways_are_the_ownerships(cluster):
    world = cluster(peers=[])
    world.registry.replace_peers([Peer("gateway-b", "10.9.0.2")])
    assert world.ownership.owner("default/hello").name == "gateway-b"


# -- any history


NAMES = st.sampled_from(["a", "b", "c"])
STEP = st.one_of(
    st.tuples(st.just("put_function"), st.sampled_from(["hello", "other"])),
    st.tuples(st.just("remove_function"), st.sampled_from(["hello", "other"])),
    st.tuples(
        st.just("put_pod"),
        NAMES,
        st.sampled_from(["hello", "other"]),
        st.sampled_from([None, "10.1.0.1"]),
        st.booleans(),
    ),
    st.tuples(st.just("remove_pod"), NAMES),
    st.tuples(st.just("replace_pods"), st.sets(NAMES)),
)


@settings(max_examples=30)
@given(st.lists(STEP, max_size=25))
def test_what_is_known_is_what_was_reported_last(steps):
    async def scenario():
        world = Cluster()
        functions, pods = {"hello"}, {}
        for kind, *args in steps:
            if kind == "put_function":
                world.registry.put_function(manifest(args[0]))
                functions.add(args[0])
            elif kind == "remove_function":
                world.registry.remove_function("default", args[0])
                functions.discard(args[0])
            elif kind == "put_pod":
                name, function, host, terminating = args
                pods[name] = pod(name, function=function, host=host, terminating=terminating)
                world.registry.put_pod(pods[name])
            elif kind == "remove_pod":
                world.registry.remove_pod("default", args[0])
                pods.pop(args[0], None)
            else:
                pods = {name: one for name, one in pods.items() if name in args[0]}
                world.registry.replace_pods(list(pods.values()))
            await asyncio.sleep(0.01)
            assert {state.name for state in world.functions if state.manifest is not None} == functions
            assert {state.name: state.observed for state in world.dispatcher.pods()} == pods
            by_function = {(state.name, one) for state in world.functions for one in state.pods}
            assert by_function == {(one.function, name) for name, one in pods.items()}
            assert {state.name for state in world.functions} == functions | {one.function for one in pods.values()}
        await world.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
