"""One invocation's way through pods that answer, refuse, break or are not there, and what is left when it has ended."""

import asyncio
import itertools
import math

import pytest
from gateway_fakes import FakePod, echo, manifest, readiness, refusal, request, response, until, whole

from kappa_core import errors, wire
from kappa_core.errors import (
    BadAnswer,
    FunctionFailed,
    FunctionNotFound,
    GatewayTimeout,
    KappaError,
    PodLost,
    Throttled,
)
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway.invoke.invocation import Place
from kappa_gateway.invoke.outcome import ClientGone
from kappa_gateway.pods.claim import ClaimState
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import PodStatus

SYNC = InvocationType.REQUEST_RESPONSE
OTHER = Peer("gateway-b", "10.9.0.2")


async def call(world, body=b"{}", kind=SYNC, **more):
    """One whole invocation: its body, and the invocation."""
    invocation = world.invocation(kind)
    outcome = Outcome.ERROR
    try:
        connection = await invocation.send(request(body, **more))
        answer = await whole(connection)
        outcome = Outcome.SUCCESS
    finally:
        invocation.end(outcome)
    return answer, invocation


def is_idle(world):
    function = world.function
    return not function.in_flight and not function.waiters and not function.passed_on and not world.upstream.active


# -- warm


async def test_warm_requests_go_over_one_connection_and_leave_nothing_behind(invoking):
    world = invoking()
    pod, state = await world.add()
    for number in range(3):
        assert (await call(world, b"%d" % number))[0] == b"%d" % number
    assert [one.body for one in pod.requests] == [b"0", b"1", b"2"]
    assert (len(pod.transports), state.outstanding) == (1, 0)
    assert world.function.counts.invocations == {("RequestResponse", "success"): 3}
    assert is_idle(world)


async def test_what_the_agent_says_of_its_answer_is_noted(invoking):
    world = invoking()
    headers = {wire.FUNCTION_ERROR: "Unhandled", wire.DURATION_MS: "250"}
    await world.add(FakePod(lambda _: response(b"{}", headers=headers)))
    _, invocation = await call(world)
    assert invocation.function_error
    assert world.function.mean_duration == 0.25


@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan", ""])
async def test_a_duration_that_is_none_is_measured_instead(invoking, value):
    world = invoking()

    async def slow(_):
        await asyncio.sleep(2.0)
        return response(headers={wire.DURATION_MS: value})

    await world.add(FakePod(slow))
    await call(world)
    assert world.function.mean_duration == pytest.approx(2.0, abs=0.1)


# -- cold, from the Deployment


async def test_a_request_waits_for_the_first_pod_and_counts_its_cold_start(invoking):
    world = invoking()
    task = asyncio.create_task(call(world, b"5"))
    await until(lambda: world.function.waiters)
    await asyncio.sleep(3.0)
    pod = FakePod(ready=readiness(wire.INITIALIZING, "503 Unavailable"))
    world.put(pod)
    await asyncio.sleep(2.0)
    assert not task.done()
    pod.ready = readiness(wire.READY)
    answer, invocation = await task
    assert answer == b"5"
    assert invocation.cold_start.startswith(b"deployment;total=50")
    assert world.function.counts.cold_starts == {("Deployment", "not_eligible"): 1}
    assert world.function.cold_start == pytest.approx(5.0, abs=0.1)
    assert (await call(world))[1].cold_start is None, "the second call is warm"


async def test_requests_that_wait_are_served_in_their_order(invoking):
    world = invoking()
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(call(world, b"%d" % number)))
        await until(lambda: len(world.function.waiters) == len(tasks))
    pod, _ = await world.add()
    await asyncio.gather(*tasks)
    assert [one.body for one in pod.requests] == [b"0", b"1", b"2", b"3"]


async def test_waiting_ends_with_throttled(invoking):
    world = invoking(max_wait=20.0)
    task = asyncio.create_task(call(world))
    await asyncio.sleep(19.9)
    world.dispatcher.expire()
    await asyncio.sleep(0)
    assert not task.done()
    await asyncio.sleep(0.2)
    world.dispatcher.expire()
    with pytest.raises(Throttled):
        await task
    assert is_idle(world)


async def test_a_deleted_function_ends_the_waiting(invoking):
    world = invoking()
    task = asyncio.create_task(call(world))
    await until(lambda: world.function.waiters)
    world.registry.remove_function("default", "hello")
    with pytest.raises(FunctionNotFound):
        await task
    assert is_idle(world)


# -- cold, from a pool


async def test_the_first_request_to_a_claimed_pod_gives_it_the_function(invoking):
    world = invoking(pool=True)
    pod = await world.add_pool_pod()
    answer, invocation = await call(world, b"7")
    assert answer == b"7"
    (got,) = pod.specialized
    assert (got.payload, got.specialization.request_id) == (b"7", "id-1")
    state = world.dispatcher.pod("default", pod.name)
    assert state.claim.state is ClaimState.TAKEN
    assert state.claim.spec_hash == got.specialization.spec_hash
    assert invocation.cold_start.startswith(b"pool;total=")
    assert world.function.counts.cold_starts == {("Pool", "claimed"): 1}
    assert (await call(world, b"8"))[0] == b"8"
    assert [one.target for one in pod.requests] == [wire.SPECIALIZE_PATH, wire.INVOKE_PATH]
    assert len(pod.open) == 1


@pytest.mark.parametrize("reason", [wire.REFUSED_TAKEN, wire.REFUSED_SIGNATURE, wire.REFUSED_DRAINING])
async def test_a_pool_pod_that_refuses_is_not_the_functions_and_the_next_one_serves(invoking, reason):
    world = invoking(pool=True)
    refusing = await world.add_pool_pod(refuse=refusal(reason, "403 Forbidden"))
    task = asyncio.create_task(call(world, b"1"))
    await until(lambda: refusing.requests)
    serving = world.put_pool_pod()
    assert (await task)[0] == b"1"
    assert [one.payload for one in serving.specialized] == [b"1"]
    assert world.dispatcher.pod("default", refusing.name) is None
    assert world.free == 0, "and it is not claimed again at once"


async def test_a_pool_pod_that_takes_no_connection_costs_nothing_but_the_next_one(invoking):
    world = invoking(pool=True)
    away = await world.add_pool_pod()
    away.accepts = False
    away.break_off()
    task = asyncio.create_task(call(world, b"1"))
    await until(lambda: world.function.waiters)
    serving = world.put_pool_pod()
    assert (await task)[0] == b"1"
    assert len(serving.specialized) == 1


@pytest.mark.parametrize("take", [True, False])
async def test_a_pool_pod_that_is_lost_after_sending_is_asked_whose_it_is(invoking, take):
    world = invoking(pool=True)
    pod = await world.add_pool_pod(lose=True, take=take)
    with pytest.raises(PodLost):
        await call(world)
    if take:
        await until(lambda: world.dispatcher.pod("default", pod.name).status is PodStatus.READY)
        assert (await call(world, b"2"))[0] == b"2"
    else:
        await until(lambda: world.free == 1)
        assert world.dispatcher.pod("default", pod.name) is None
    assert is_idle(world)


async def test_a_function_that_is_more_than_a_pool_pod_takes_waits_for_its_deployment(invoking):
    world = invoking(pool=True)
    pool_pod = await world.add_pool_pod()

    def too_much(*_):
        raise ValueError("too large")

    world.invoker.specializer.request = too_much
    task = asyncio.create_task(call(world, b"1"))
    await until(lambda: world.function.waiters)
    await until(lambda: world.free == 1)
    assert not pool_pod.requests
    await world.add()
    assert (await task)[0] == b"1"


# -- refused


async def test_a_busy_pod_is_asked_again_after_a_pause_that_doubles(invoking):
    world = invoking()
    asked = []

    def busy(one):
        asked.append(asyncio.get_running_loop().time())
        return refusal(wire.REFUSED_BUSY) if len(asked) < 8 else echo(one)

    await world.add(FakePod(busy))
    assert (await call(world, b"1"))[0] == b"1"
    pauses = [round(later - earlier, 2) for earlier, later in itertools.pairwise(asked)]
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.32]


async def test_a_busy_pod_hands_the_request_to_another(invoking):
    world = invoking()
    await world.add()
    full, state = await world.add(FakePod(lambda _: refusal(wire.REFUSED_BUSY)))
    assert (await call(world, b"1"))[0] == b"1"
    assert state.status is PodStatus.READY
    assert len(full.open) == 1, "the connection that brought the refusal can be used again"


@pytest.mark.parametrize("reason", [wire.REFUSED_DRAINING, wire.REFUSED_POOL])
async def test_a_pod_that_refuses_for_good_gets_nothing_more(invoking, reason):
    world = invoking()
    leaving, state = await world.add(FakePod(lambda _: refusal(reason, "503 Unavailable")))
    task = asyncio.create_task(call(world, b"1"))
    await until(lambda: leaving.requests)
    await world.add()
    assert (await task)[0] == b"1"
    assert (await call(world, b"2"))[0] == b"2"
    assert state.status is PodStatus.DRAINING
    assert len(leaving.requests) == 1
    await until(lambda: not leaving.open)


async def test_a_web_servers_429_is_its_own_answer(invoking):
    world = invoking(code={"image": {"ref": "web:1", "protocol": "http"}})
    await world.add(FakePod(lambda _: refusal(wire.REFUSED_BUSY)), protocol="http")
    invocation = world.invocation(SYNC)
    assert (await invocation.send(request())).status == 429
    invocation.end(Outcome.SUCCESS)


async def test_a_refusal_that_goes_on_and_on_is_not_read_to_its_end(invoking):
    world = invoking()
    answers = [response(b"x" * 200_000, "429 Too Many Requests", {wire.REFUSED: wire.REFUSED_BUSY}), response(b"1")]
    pod, _ = await world.add(FakePod(lambda _: answers.pop(0)))
    assert (await call(world))[0] == b"1"
    assert len(pod.open) == 1
    assert len(pod.transports) == 2, "its connection was closed"


# -- unreachable and lost


async def test_a_pod_that_takes_no_connection_is_dialled_until_it_does(invoking):
    world = invoking()
    pod, state = await world.add()
    pod.accepts = False
    pod.break_off()
    await asyncio.sleep(0.1)
    task = asyncio.create_task(call(world, b"1"))
    await until(lambda: world.function.waiters)
    assert state.status is PodStatus.STARTING
    pod.accepts = True
    assert (await task)[0] == b"1"
    assert state.status is PodStatus.READY


async def test_a_connection_is_awaited_for_a_while_only(invoking):
    world = invoking()
    pod, state = await world.add()
    pod.hangs = True
    pod.break_off()
    await asyncio.sleep(0.1)
    before = asyncio.get_running_loop().time()
    task = asyncio.create_task(call(world))
    await until(lambda: state.status is PodStatus.STARTING)
    assert asyncio.get_running_loop().time() - before == pytest.approx(world.invoker.connect_timeout, abs=0.1)
    pod.hangs = False
    await task


async def test_a_request_that_may_have_run_is_not_sent_again(invoking):
    world = invoking()
    first, _ = await world.add(FakePod(lambda _: None))
    second, _ = await world.add(FakePod(lambda _: None))
    with pytest.raises(PodLost, match="may have run"):
        await call(world)
    assert len(first.requests) + len(second.requests) == 1
    assert is_idle(world)


def breaks_once(pod, partial=b""):
    """The next answer is a broken connection, after some bytes."""

    def answer(one):
        pod.answer = echo
        if partial:
            one.transport.deliver(partial)

    pod.answer = answer


async def test_an_idempotent_request_is_sent_again_if_the_used_connection_breaks_before_an_answer(invoking):
    world = invoking()
    pod, _ = await world.add()
    await call(world)
    breaks_once(pod)
    assert (await call(world, b"1", idempotent=True))[0] == b"1"
    assert len(pod.requests) == 3
    assert is_idle(world)


async def test_it_is_not_where_bytes_of_an_answer_came(invoking):
    world = invoking()
    pod, _ = await world.add()
    await call(world)
    breaks_once(pod, b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(PodLost):
        await call(world, idempotent=True)
    assert len(pod.requests) == 2


async def test_it_is_not_where_the_body_streams(invoking):
    world = invoking()
    pod, _ = await world.add()
    await call(world)
    breaks_once(pod)

    async def more(connection):
        pass

    with pytest.raises(PodLost):
        await call(world, idempotent=True, more=more)
    assert len(pod.requests) == 2


async def test_it_is_not_over_a_new_connection(invoking):
    world = invoking()
    pod, state = await world.add()
    pod.break_off()
    await until(lambda: not state.endpoint.idle)
    breaks_once(pod)
    with pytest.raises(PodLost):
        await call(world, idempotent=True)
    assert len(pod.requests) == 1


@pytest.mark.parametrize(
    ("protocol", "idempotent", "idle", "connections"),
    [
        ("lambda", False, 20.0, 1),
        ("http", True, 20.0, 1),
        ("http", False, 0.2, 1),
        ("http", False, 20.0, 2),
    ],
)
async def test_a_web_server_gets_what_is_not_idempotent_over_a_fresh_connection(
    invoking, protocol, idempotent, idle, connections
):
    world = invoking()
    pod, _ = await world.add(protocol=protocol)
    world.upstream.sweep()
    await call(world)
    await asyncio.sleep(idle)
    await call(world, idempotent=idempotent)
    assert len(pod.transports) == connections


async def test_a_pod_that_does_not_answer_in_time(invoking):
    world = invoking(timeout="10s")
    never = asyncio.Event()

    async def stall(_):
        await never.wait()

    pod, _ = await world.add(FakePod(stall))
    task = asyncio.create_task(call(world))
    await asyncio.sleep(14.9)
    world.upstream.sweep()
    await asyncio.sleep(0)
    assert not task.done()
    await asyncio.sleep(0.2)
    world.upstream.sweep()
    with pytest.raises(GatewayTimeout, match=r"default/hello.*timeout 10 s"):
        await task
    assert is_idle(world)
    assert not pod.open
    never.set()


async def test_an_answer_that_is_no_http(invoking):
    world = invoking()
    await world.add(FakePod(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n"))
    with pytest.raises(BadAnswer, match="pod-1"):
        await call(world)
    assert is_idle(world)


# -- passed on to another gateway


def with_other(invoking, **spec):
    """A gateway that leaves claims to `OTHER`, and what answers there."""
    world = invoking(pool=True, peers=[OTHER], **spec)
    other = FakePod()
    world.loop.network[OTHER.host, 9001] = other
    return world, other


async def test_a_request_without_a_pod_goes_to_the_gateway_that_claims(invoking):
    world, other = with_other(invoking)
    headers = {wire.COLD_START: "pool;total=8.1", wire.FUNCTION_ERROR: "Unhandled", wire.DURATION_MS: "100"}
    other.answer = lambda one: response(one.body, headers=headers)
    answer, invocation = await call(world, b"1")
    assert (answer, invocation.cold_start, invocation.function_error) == (b"1", b"pool;total=8.1", True)
    (sent,) = other.requests
    assert (sent.target, sent.headers["kappa-function"]) == (wire.INVOKE_PATH, "default/hello")
    assert world.peers.is_valid(sent.headers["kappa-peer-proof"], "default/hello", "id-1")
    assert is_idle(world)
    assert world.function.counts.invocations == {("RequestResponse", "success"): 1}
    assert world.function.counts.cold_starts == {}, "the other gateway counts it"


@pytest.mark.parametrize(
    "error",
    [
        Throttled("full", retry_after=3.0),
        FunctionFailed("no image", reason="ImagePullFailed"),
        FunctionNotFound("gone"),
        PodLost("lost"),
        GatewayTimeout("late"),
        KappaError("a bug"),
    ],
)
async def test_the_other_gateways_errors_are_the_callers(invoking, error):
    world, other = with_other(invoking)
    other.answer = lambda _: response(errors.encode(error), "500 Error", {wire.REFUSED: wire.REFUSED_ERROR})
    with pytest.raises(type(error)) as raised:
        await call(world)
    assert (raised.value.message, raised.value.retry_after) == (error.message, error.retry_after)
    assert is_idle(world)


def is_away(other):
    other.accepts = False


def is_silent(other):
    other.hangs = True


def does_not_take(other):
    other.answer = lambda _: refusal(wire.REFUSED_SIGNATURE, "403 Forbidden")


@pytest.mark.parametrize("change", [is_away, is_silent, does_not_take])
async def test_what_the_other_gateway_does_not_take_waits_here(invoking, change):
    world, other = with_other(invoking)
    change(other)
    task = asyncio.create_task(call(world, b"1"))
    await until(lambda: world.function.waiters)
    await asyncio.sleep(5.0)
    assert not task.done()
    await world.add()
    assert (await task)[0] == b"1"
    assert len(other.requests) <= 1, "it is not passed on a second time"
    assert is_idle(world)


async def test_a_request_that_was_lost_at_the_other_gateway_is_not_sent_again(invoking):
    world, other = with_other(invoking)
    other.answer = lambda _: None
    with pytest.raises(PodLost):
        await call(world)
    assert len(other.requests) == 1
    assert is_idle(world)


async def test_one_that_stays_is_not_passed_on(invoking):
    world, other = with_other(invoking)
    invocation = world.invocation(SYNC, stays=True)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: world.function.waiters)
    await asyncio.sleep(1.0)
    await world.add()
    assert await whole(await task) == b"{}"
    invocation.end(Outcome.SUCCESS)
    assert not other.requests


async def test_a_caller_that_leaves_breaks_the_connection_to_the_other_gateway(invoking):
    world, other = with_other(invoking)
    never = asyncio.Event()

    async def stall(_):
        await never.wait()

    other.answer = stall
    invocation = world.invocation(SYNC)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: other.requests)
    invocation.abort()
    with pytest.raises(ClientGone):
        await task
    invocation.end(Outcome.SUCCESS)
    assert other.transports[0].was_aborted
    assert is_idle(world)
    never.set()


# -- withdrawn and aborted


class NotedPlace(Place):
    def __init__(self, *, may_begin=True):
        self.noted, self._may_begin = [], may_begin

    def waits(self):
        self.noted.append("waits")

    def may_begin(self):
        self.noted.append("begins")
        return self._may_begin


async def test_a_request_that_waits_can_be_withdrawn(invoking):
    world = invoking()
    invocation = world.invocation(SYNC)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: world.function.waiters)
    invocation.withdraw()
    assert await task is None
    assert is_idle(world)


async def test_what_was_sent_is_not_withdrawn_but_would_not_wait_again(invoking):
    world = invoking()
    gate = asyncio.Event()
    answers = [echo, lambda _: refusal(wire.REFUSED_BUSY)]

    async def answer(one):
        await gate.wait()
        return answers.pop(0)(one)

    pod, _ = await world.add(FakePod(answer))
    for expected in (b"1", None):
        gate.clear()
        invocation = world.invocation(SYNC)
        task = asyncio.create_task(invocation.send(request(b"1")))
        sent = len(pod.requests)
        await until(lambda sent=sent: len(pod.requests) > sent)
        invocation.withdraw()
        gate.set()
        connection = await task
        assert (connection and await whole(connection)) == expected
        invocation.end(Outcome.SUCCESS)
    assert is_idle(world)


async def test_what_must_not_begin_releases_its_slot_and_is_not_sent(invoking):
    world = invoking()
    pod, state = await world.add()
    place = NotedPlace(may_begin=False)
    invocation = world.invocation(SYNC, place=place)
    assert await invocation.send(request()) is None
    assert place.noted == ["waits", "begins"]
    assert (pod.requests, state.outstanding) == ([], 0)


async def test_its_place_sees_each_time_that_it_waits(invoking):
    world = invoking()
    await world.add(FakePod(lambda _: refusal(wire.REFUSED_DRAINING, "503 Unavailable")))
    place = NotedPlace()
    task = asyncio.create_task(world.invocation(SYNC, place=place).send(request()))
    await until(lambda: world.function.waiters)
    await world.add()
    await task
    assert place.noted == ["waits", "begins", "waits", "begins"]


async def test_a_caller_that_leaves_while_it_waits_is_forgotten(invoking):
    world = invoking()
    invocation = world.invocation(SYNC)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: world.function.waiters)
    invocation.abort()
    assert not world.function.waiters
    with pytest.raises(ClientGone):
        await task
    invocation.end(Outcome.ERROR)
    assert world.function.counts.invocations == {("RequestResponse", "cancelled"): 1}


async def test_a_caller_that_leaves_frees_the_slot_at_once_and_the_pod_sees_it(invoking):
    world = invoking()
    never = asyncio.Event()

    async def stall(_):
        await never.wait()

    pod, state = await world.add(FakePod(stall))
    invocation = world.invocation(SYNC)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: pod.requests)
    invocation.abort()
    assert state.outstanding == 0
    assert pod.transports[0].was_aborted
    with pytest.raises(ClientGone):
        await task
    invocation.end(Outcome.SUCCESS)
    assert world.function.counts.invocations == {("RequestResponse", "cancelled"): 1}
    assert is_idle(world)
    never.set()


async def test_a_caller_that_leaves_while_its_pod_is_connected_sends_nothing(invoking):
    world = invoking()
    pod, state = await world.add()
    pod.break_off()
    await until(lambda: not state.endpoint.idle)
    pod.hangs = True
    invocation = world.invocation(SYNC)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: invocation.has_slot)
    invocation.abort()
    pod.hangs = False
    with pytest.raises(ClientGone):
        await task
    invocation.end(Outcome.ERROR)
    assert pod.requests == []
    assert len(state.endpoint.idle) == 1, "the connection is of use to the next one"


async def test_a_caller_that_leaves_leaves_a_claimed_pod_to_the_next_one(invoking):
    world = invoking(pool=True)
    hold = asyncio.Event()
    pod = await world.add_pool_pod(hold=hold)
    invocation = world.invocation(SYNC)
    task = asyncio.create_task(invocation.send(request()))
    await until(lambda: pod.specialized)
    invocation.abort()
    with pytest.raises(ClientGone):
        await task
    invocation.end(Outcome.ERROR)
    hold.set()
    assert (await call(world, b"2"))[0] == b"2"
    assert pod.requests[-1].target == wire.INVOKE_PATH


# -- its end


async def test_the_end_counts_once(invoking):
    world = invoking()
    await world.add()
    _, invocation = await call(world)
    assert invocation.end(Outcome.ERROR) is None
    assert world.function.counts.invocations == {("RequestResponse", "success"): 1}
    assert sum(world.function.counts.duration.counts) == 1
    assert sum(world.function.counts.overhead.counts) == 1


async def test_what_another_gateway_counts_is_not_counted_here(invoking):
    world = invoking()
    await world.add()
    await call(world, kind=None)
    assert world.function.counts.invocations == {}
    assert sum(world.function.counts.duration.counts) == 0
    assert world.function.mean_duration >= 0


async def test_what_was_no_invocation_counts_nothing(invoking):
    world = invoking()
    invocation = world.invocation(SYNC)
    invocation.forget()
    invocation.end(Outcome.SUCCESS)
    assert world.function.counts.invocations == {}


async def test_a_throttled_one_is_counted_as_both(invoking):
    world = invoking()
    world.invocation(SYNC).end(Outcome.THROTTLED)
    assert (world.function.counts.throttles, world.function.counts.invocations) == (
        1,
        {("RequestResponse", "throttled"): 1},
    )


async def test_the_connection_can_be_held_after_the_end_of_the_slot(invoking):
    world = invoking()
    pod, state = await world.add()
    invocation = world.invocation(SYNC)
    await whole(await invocation.send(request()))
    kept = invocation.end(Outcome.SUCCESS, keep_connection=True)
    assert (state.outstanding, kept.deadline, state.endpoint.idle) == (0, math.inf, [])
    await call(world)
    assert len(pod.transports) == 2, "the next request goes over another one"
    kept.finish()
    assert kept in state.endpoint.idle


async def test_a_connection_whose_answer_is_not_complete_is_not_held(invoking):
    world = invoking()
    half = response(b"x" * 10)[:-5]
    pod, _ = await world.add(FakePod(lambda one: half))
    invocation = world.invocation(SYNC)
    await invocation.send(request())
    assert invocation.end(Outcome.ERROR, keep_connection=True) is None
    await until(lambda: not pod.open)


@pytest.mark.parametrize("works", [True, False])
async def test_a_pod_whose_init_failed_is_ready_once_it_answers_without_an_error(invoking, works):
    world = invoking()
    headers = {} if works else {wire.FUNCTION_ERROR: "Unhandled"}
    failed = readiness(wire.INIT_FAILED, "503 Unavailable")
    _, state = await world.add(FakePod(lambda _: response(headers=headers), ready=failed))
    assert state.status is PodStatus.INIT_FAILED
    await call(world)
    assert state.status is (PodStatus.READY if works else PodStatus.INIT_FAILED)


# -- a slot for a connection that is not read here


async def test_the_next_slot_is_another_pods(invoking):
    world = invoking()
    _, first = await world.add()
    _, second = await world.add()
    invocation = world.invocation(InvocationType.FUNCTION_URL, stays=True)
    got = await invocation.slot()
    world.loop.network.clear()
    following = await invocation.next_slot()
    assert {got, following} == {first, second}
    assert got.status is PodStatus.STARTING
    invocation.end(Outcome.SUCCESS)
    assert (first.outstanding, second.outstanding) == (0, 0)


async def test_a_slot_is_refused_as_an_invocation_is(invoking):
    world = invoking()
    world.registry.put_function(manifest(scaling={"maxReplicas": 0}))
    with pytest.raises(Throttled):
        await world.invocation(SYNC, stays=True).slot()
