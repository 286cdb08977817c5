"""A claim from its opening to its end: what each answer and each report of the platform leaves behind."""

import asyncio

import pytest
from gateway_fakes import RUNTIME, readiness, until

from kappa_core import wire
from kappa_core.demand import Claim as ReportedClaim
from kappa_gateway.pods.claim import ClaimState
from kappa_gateway.pods.platform import Pod
from kappa_gateway.pods.state import PodStatus, Ticket
from kappa_gateway.pods.warm.free_pods import SHUN


async def claimed(cluster, **spec):
    """A pod that is claimed for the function's first request."""
    world = cluster(pool=True, **spec)
    server = await world.add_pool_pod()
    ticket = Ticket(world.function)
    assert world.dispatcher.acquire(ticket)
    assert ticket.pod.claim.state is ClaimState.CLAIMED
    return world, server, ticket


def as_functions(state, **more):
    """The platform shows the claimed pod with its function's label."""
    observed = state.observed
    return Pod(
        "default", state.name, "hello", observed.host, observed.port, more.pop("concurrency", 1), "lambda", **more
    )


def is_forgotten(world, state):
    return (
        list(world.book) == []
        and world.dispatcher.pod("default", state.name) is None
        and state.status is PodStatus.GONE
        and not world.function.serving
    )


# -- the ways that it ends well


async def test_sent_accepted_and_confirmed(cluster):
    world, _, ticket = await claimed(cluster)
    pod = ticket.pod
    world.claims.sent(pod, "hash")
    assert (pod.claim.state, pod.claim.spec_hash) == (ClaimState.SENT, "hash")
    world.claims.accepted(pod)
    assert pod.claim.state is ClaimState.TAKEN
    world.registry.put_pod(as_functions(pod))
    assert pod.claim.state is ClaimState.CONFIRMED
    assert list(world.book) == []
    assert world.dispatcher.pod("default", pod.name) is pod
    assert pod.status is PodStatus.READY


async def test_its_label_may_come_before_its_answer(cluster):
    world, _, ticket = await claimed(cluster)
    world.claims.sent(ticket.pod, "hash")
    world.registry.put_pod(as_functions(ticket.pod))
    world.claims.accepted(ticket.pod)
    assert ticket.pod.claim.state is ClaimState.CONFIRMED
    assert list(world.book) == []


async def test_it_leaves_the_pool_before_it_has_its_label(cluster):
    world, _, ticket = await claimed(cluster)
    pod = ticket.pod
    world.claims.sent(pod, "hash")
    world.registry.remove_pool_pod("default", pod.name)
    await asyncio.sleep(9.0)
    assert pod.status is PodStatus.READY
    world.registry.put_pod(as_functions(pod))
    await asyncio.sleep(5.0)
    assert (pod.claim.state, pod.status) == (ClaimState.CONFIRMED, PodStatus.READY)


# -- and those that it does not


@pytest.mark.parametrize("end", ["gone", "no label"])
async def test_a_pod_that_is_gone_is_lost(cluster, end):
    world, _, ticket = await claimed(cluster)
    pod = ticket.pod
    world.claims.sent(pod, "hash")
    if end == "gone":
        world.registry.remove_pod("default", pod.name)
    else:
        world.registry.remove_pool_pod("default", pod.name)
        await asyncio.sleep(10.1)
    assert pod.claim.state is ClaimState.LOST
    assert is_forgotten(world, pod)
    assert world.free == 0


async def test_one_that_is_shown_in_its_pool_again_is_not(cluster):
    world, server, ticket = await claimed(cluster)
    world.registry.remove_pool_pod("default", ticket.pod.name)
    world.registry.put_pool_pod(server.as_pool_pod)
    await asyncio.sleep(20.0)
    assert ticket.pod.claim.state is ClaimState.CLAIMED
    assert world.free == 0


@pytest.mark.parametrize(
    ("how", "pause"),
    [
        (lambda world, pod: world.claims.unreachable(pod), 0.0),
        (lambda world, pod: world.claims.has_no_function(pod), 0.0),
        (lambda world, pod: world.claims.refused(pod, wire.REFUSED_SIGNATURE), SHUN),
        (lambda world, pod: world.claims.refused(pod, wire.REFUSED_STALE), SHUN),
        (lambda world, pod: world.claims.refused(pod, "HTTP 500"), SHUN),
        (lambda world, pod: world.claims.refused(pod, wire.REFUSED_TAKEN), None),
        (lambda world, pod: world.claims.refused(pod, wire.REFUSED_DRAINING), None),
    ],
    ids=["unreachable", "no function", "signature", "stale", "unknown", "taken", "draining"],
)
async def test_a_pod_that_never_was_the_functions_is_free_again_after_a_while(cluster, how, pause):
    world, _, ticket = await claimed(cluster)
    pod = ticket.pod
    if pause != 0.0:
        world.claims.sent(pod, "hash")
    how(world, pod)
    assert pod.claim.state is ClaimState.RELEASED
    assert is_forgotten(world, pod)
    assert not world.dispatcher.refused(ticket, draining=True), "its request waits again"
    world.dispatcher.release(ticket)
    await asyncio.sleep((pause or 0.0) * 0.9 + 0.0)
    if pause is None:
        await asyncio.sleep(3600.0)
        assert world.free == 0
        return
    assert world.free == 0
    await until(lambda: world.free == 1, within=pause + 1.0)


async def test_the_owner_of_the_installation_is_told_of_a_pair_of_keys_that_is_none(cluster, caplog):
    world, _, ticket = await claimed(cluster)
    world.claims.refused(ticket.pod, wire.REFUSED_SIGNATURE)
    assert "one pair" in caplog.text
    world.dispatcher.refused(ticket, draining=True)


async def test_a_release_comes_once(cluster):
    world, _, ticket = await claimed(cluster)
    pod = ticket.pod
    world.claims.unreachable(pod)
    await until(lambda: world.free == 1)
    world.claims.unreachable(pod)
    world.claims.refused(pod, wire.REFUSED_TAKEN)
    assert world.free == 1


async def test_a_pod_whose_container_was_started_again_after_it_was_confirmed_is_not_used(cluster):
    world, server, ticket = await claimed(cluster)
    pod = ticket.pod
    world.claims.sent(pod, "hash")
    world.claims.accepted(pod)
    world.registry.put_pod(as_functions(pod))
    world.claims.has_no_function(pod)
    assert (pod.status, pod.claim.state) == (PodStatus.DRAINING, ClaimState.CONFIRMED)
    await until(lambda: not server.open)


@pytest.mark.parametrize("has_it", [True, False])
async def test_a_pod_that_did_not_answer_is_asked_whether_it_has_the_function(cluster, has_it):
    world, server, ticket = await claimed(cluster)
    pod = ticket.pod
    world.claims.sent(pod, "hash")
    if has_it:
        server.ready = readiness(wire.READY, function="default/hello")
    world.claims.uncertain(pod)
    assert pod.status is PodStatus.STARTING
    world.dialer.dial(pod)
    world.dispatcher.release(ticket)
    if has_it:
        await until(lambda: pod.status is PodStatus.READY)
        assert world.dispatcher.pod("default", pod.name) is pod
    else:
        await until(lambda: pod.claim.state is ClaimState.RELEASED)
        assert is_forgotten(world, pod)


async def test_the_functions_record_goes_with_its_last_claim(cluster):
    world, _, ticket = await claimed(cluster)
    pod = ticket.pod
    world.dispatcher.release(ticket)
    world.registry.remove_function("default", "hello")
    assert list(world.functions) == [world.function]
    world.claims.unreachable(pod)
    assert list(world.functions) == []


# -- what the operator is notified of


async def reports_of(world):
    """What the demand feed says from now on, as a list that grows."""
    found = []

    async def follow():
        async for report in world.demand.subscribe():
            found.append(report)  # noqa: PERF401 - it never ends

    task = asyncio.create_task(follow())
    await until(lambda: found)
    found.clear()
    return found, task


@pytest.mark.parametrize("is_quick", [True, False])
async def test_the_operator_is_notified_of_a_claim_once(cluster, is_quick):
    world, server, ticket = await claimed(cluster)
    found, task = await reports_of(world)
    world.claims.sent(ticket.pod, "hash")
    await asyncio.sleep(0.04)
    assert found == [], "not while its answer may come any moment"
    if is_quick:
        world.claims.accepted(ticket.pod)
    await asyncio.sleep(0.02)
    expected = (ReportedClaim("default", "hello", ticket.pod.name, f"uid-{server.name}", "hash"),)
    assert [report.claims for report in found] == [expected]
    world.claims.accepted(ticket.pod)
    await asyncio.sleep(1.0)
    assert [report.claims for report in found] == [expected]
    assert world.demand.full_report(world.dispatcher.take_peak).claims == expected
    world.registry.put_pod(as_functions(ticket.pod))
    assert world.demand.full_report(world.dispatcher.take_peak).claims == ()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_claim_that_came_to_nothing_is_not_reported(cluster):
    world, _, ticket = await claimed(cluster)
    found, task = await reports_of(world)
    world.claims.sent(ticket.pod, "hash")
    world.claims.refused(ticket.pod, wire.REFUSED_STALE)
    world.dispatcher.refused(ticket, draining=True)
    world.dispatcher.release(ticket)
    await asyncio.sleep(1.0)
    assert [report.claims for report in found if report.claims] == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# -- its slots


async def test_all_its_slots_are_open_once_it_has_the_function(cluster):
    world, _, ticket = await claimed(cluster, concurrency=4)
    assert ticket.pod.capacity == 1
    world.claims.sent(ticket.pod, "hash")
    world.claims.accepted(ticket.pod)
    assert ticket.pod.capacity == 4


async def test_they_need_not_wait_for_its_first_answer(cluster):
    world, server, ticket = await claimed(cluster, concurrency=4)
    world.claims.sent(ticket.pod, "hash")
    await asyncio.sleep(0.1)
    assert ticket.pod.capacity == 1, "it has not taken the function yet"
    server.ready = readiness(wire.READY, function="default/hello")
    await until(lambda: ticket.pod.capacity == 4, within=0.1)
    assert ticket.pod.claim.state is ClaimState.SENT


async def test_a_pod_with_one_slot_is_not_asked(cluster):
    world, server, ticket = await claimed(cluster)
    asked = server.asked
    world.claims.sent(ticket.pod, "hash")
    await asyncio.sleep(1.0)
    assert server.asked == asked
    assert world.free_pods.known("default", RUNTIME) == 0
