"""The dispatcher's promises, one by one, and then all at once against random histories."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from kappa_core.errors import FunctionFailed, FunctionNotFound, Throttled
from kappa_core.function import Function
from kappa_core.metrics import ColdStartReason
from kappa_gateway.pods.claim import Claim
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.offer import NoWarmPods, Offer
from kappa_gateway.pods.platform import Peer, Pod, PoolPod
from kappa_gateway.pods.slots import LONGEST_PAUSE
from kappa_gateway.pods.state import FunctionState, PodState, PodStatus, Ticket

FUNCTION = Function.model_validate(
    {
        "metadata": {"name": "f"},
        "spec": {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x"}},
    }
)


class World:
    """A dispatcher with a clock in the test's hand, and one function."""

    def __init__(self, warm=None, **limits):
        self.now = 1000.0
        self.alarms = []
        self.calls = []
        self.waited = []
        self.dispatcher = Dispatcher(
            lambda: self.now, warm or NoWarmPods(), call_at=self.call_at, on_demand=self.waited.append, **limits
        )
        self.function = FunctionState("default", "f")
        self.function.manifest = FUNCTION
        self.function.max_replicas = 10
        self.count = 0

    def call_at(self, when, callback):
        self.alarms.append(when)
        self.calls.append(callback)

    def pod(self, concurrency=1, status=PodStatus.READY):
        self.count += 1
        pod = PodState(
            Pod("default", f"p{self.count}", "f", "10.0.0.1", 8080, concurrency, "lambda"), self.function, self.now
        )
        self.dispatcher.add(pod)
        if status is not PodStatus.STARTING:
            self.dispatcher.set_status(pod, status)
        return pod

    def ask(self):
        """A ticket that asked for a slot."""
        ticket = RecordingTicket(self.function)
        ticket.wake = ticket.record
        self.dispatcher.acquire(ticket)
        return ticket


class RecordingTicket(Ticket):
    __slots__ = ("wakes",)

    def __init__(self, function):
        super().__init__(function)
        self.wakes = 0

    def record(self):
        self.wakes += 1


def test_a_free_slot_is_taken_at_once():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    assert ticket.pod is pod
    assert ticket.wakes == 0
    assert pod.outstanding == 1


def test_without_a_slot_the_first_that_waits_is_woken_first():
    world = World()
    pod = world.pod()
    running = world.ask()
    first, second = world.ask(), world.ask()
    assert first.pod is second.pod is None
    world.dispatcher.release(running)
    assert first.pod is pod
    assert first.wakes == 1
    assert second.pod is None


def test_the_start_of_waiting_is_reported_once():
    world = World()
    world.ask()
    world.ask()
    assert world.waited == [world.function]


def test_the_least_busy_pod_is_taken():
    world = World()
    pods = [world.pod(concurrency=3), world.pod(concurrency=3)]
    for _ in range(6):
        world.ask()
        assert abs(pods[0].outstanding - pods[1].outstanding) <= 1
    assert [pod.outstanding for pod in pods] == [3, 3]
    assert world.ask().pod is None


def test_a_slot_is_given_back_once_however_often_it_is_released():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    for _ in range(3):
        world.dispatcher.release(ticket)
    assert pod.outstanding == 0
    assert world.function.in_flight == 0


def test_who_stops_waiting_is_skipped():
    world = World()
    gone, stays = world.ask(), world.ask()
    world.dispatcher.release(gone)
    pod = world.pod()
    assert gone.pod is None
    assert gone.wakes == 0
    assert stays.pod is pod


def test_the_queue_has_a_limit_and_says_when_to_come_back():
    world = World(max_waiting_requests=2)
    world.ask()
    world.ask()
    with pytest.raises(Throttled) as refused:
        world.ask()
    assert refused.value.retry_after >= 1
    assert "default/f" in refused.value.message


def test_waiting_ends_with_throttled():
    world = World(max_wait=60)
    ticket = world.ask()
    world.now += 30
    later = world.ask()
    world.now += 30
    world.dispatcher.expire()
    assert isinstance(ticket.error, Throttled)
    assert ticket.wakes == 1
    assert later.error is None
    world.dispatcher.release(ticket)
    assert world.pod().outstanding == 1


def test_max_replicas_zero_refuses_at_once_even_with_a_pod():
    world = World()
    world.pod()
    world.function.max_replicas = 0
    with pytest.raises(Throttled) as refused:
        world.ask()
    assert refused.value.reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert "maxReplicas" in refused.value.message


def test_max_replicas_zero_ends_the_waiting():
    world = World()
    ticket = world.ask()
    world.function.max_replicas = 0
    world.dispatcher.changed(world.function)
    assert isinstance(ticket.error, Throttled)


def test_a_deleted_function_ends_the_waiting():
    world = World()
    ticket = world.ask()
    world.function.manifest = None
    world.dispatcher.changed(world.function)
    assert isinstance(ticket.error, FunctionNotFound)
    with pytest.raises(FunctionNotFound):
        world.ask()


def test_a_failed_function_ends_the_waiting_unless_a_pod_serves():
    world = World()
    ticket = world.ask()
    world.function.failure = FunctionFailed("no such image", reason="ImagePullFailed")
    world.dispatcher.changed(world.function)
    assert isinstance(ticket.error, FunctionFailed)
    with pytest.raises(FunctionFailed):
        world.ask()
    pod = world.pod()
    assert world.ask().pod is pod
    assert world.ask().pod is None  # waits: the pod of an earlier state still serves


def test_a_pod_that_says_busy_is_left_alone_for_a_while_and_the_request_goes_elsewhere():
    world = World()
    full, other = world.pod(), world.pod()
    ticket = world.ask()
    first = ticket.pod
    second = other if first is full else full
    assert world.dispatcher.refused(ticket, draining=False)
    assert ticket.pod is second
    waiting = world.ask()
    assert waiting.pod is None
    assert first.outstanding == 0
    world.now = world.alarms[-1]
    world.dispatcher.tick()
    assert waiting.pod is first


def test_a_refused_request_counts_once_as_one_that_waits():
    """Counted as one in flight too, it would have two pods started."""
    world = World()
    world.pod()
    ticket = world.ask()
    assert not world.dispatcher.refused(ticket, draining=False)
    assert (world.function.in_flight, world.function.peak_in_flight, len(world.function.waiters)) == (0, 0, 1)


def test_an_alarm_that_rings_a_little_early_counts():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    assert not world.dispatcher.refused(ticket, draining=False)
    world.now = world.alarms[-1] - 0.001
    world.dispatcher.tick()
    assert ticket.pod is pod


def test_the_pause_after_busy_doubles_up_to_a_limit_and_ends_with_success():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    pauses = []
    for _ in range(8):
        before = world.now
        assert not world.dispatcher.refused(ticket, draining=False)
        world.now = world.alarms[-1]
        pauses.append(world.now - before)
        world.dispatcher.tick()
        assert ticket.pod is pod
    assert pauses[:3] == pytest.approx([0.01, 0.02, 0.04])
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    world.dispatcher.release(ticket, 0.1)
    assert pod.backoff == 0


def test_our_own_release_at_a_busy_pod_frees_a_slot_there():
    world = World()
    pod = world.pod(concurrency=3)
    running, refused = world.ask(), world.ask()
    assert not world.dispatcher.refused(refused, draining=False)
    assert (pod.outstanding, pod.limit) == (1, 1)
    world.dispatcher.release(running, 0.1)
    assert refused.pod is pod


def test_a_refused_request_keeps_its_place():
    world = World()
    world.pod()
    first = world.ask()
    second = world.ask()
    assert not world.dispatcher.refused(first, draining=False)
    third = world.ask()
    assert list(world.function.waiters) == [first, second, third]


def test_a_draining_pod_gets_nothing_new():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    assert not world.dispatcher.refused(ticket, draining=True)
    world.dispatcher.set_status(pod, PodStatus.READY)
    assert ticket.pod is None
    assert pod.status is PodStatus.DRAINING


def test_an_unreachable_pod_waits_for_the_dialer():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    assert not world.dispatcher.unreachable(ticket)
    assert pod.status is PodStatus.STARTING
    world.dispatcher.set_status(pod, PodStatus.READY)
    assert ticket.pod is pod


def test_a_pod_whose_init_failed_serves_only_when_there_is_no_hope_of_another():
    world = World()
    failed = world.pod(status=PodStatus.INIT_FAILED)
    starting = world.pod(status=PodStatus.STARTING)
    ticket = world.ask()
    assert ticket.pod is None
    world.dispatcher.set_status(starting, PodStatus.INIT_FAILED)
    assert ticket.pod in (failed, starting)


def test_terminating_pods_finish_what_they_have():
    world = World()
    pod = world.pod()
    ticket = world.ask()
    waiting = world.ask()
    world.dispatcher.set_status(pod, PodStatus.DRAINING)
    world.dispatcher.release(ticket, 0.1)
    assert waiting.pod is None
    assert pod.outstanding == 0


def test_a_changed_capacity_counts_at_once():
    world = World()
    pod = world.pod(concurrency=1)
    world.ask()
    waiting = world.ask()
    world.dispatcher.set_capacity(pod, 2)
    assert waiting.pod is pod


def test_means_follow_what_is_measured():
    world = World()
    world.pod()
    for duration in (1.0, 2.0):
        world.dispatcher.release(world.ask(), duration)
    assert world.function.mean_duration == pytest.approx(1.2)
    assert world.function.peak_in_flight == 1


class DispatcherMachine(RuleBasedStateMachine):
    """Random histories of requests, pods and time, checked after every step."""

    pods = Bundle("pods")
    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.world = World(max_waiting_requests=5, max_wait=10)
        self.tickets = []

    def _ask(self):
        ticket = RecordingTicket(self.world.function)
        ticket.wake = ticket.record
        try:
            self.world.dispatcher.acquire(ticket)
        except (Throttled, FunctionNotFound, FunctionFailed):
            assert ticket.pod is None
            return
        self.tickets.append(ticket)

    def _holders(self):
        return [ticket for ticket in self.tickets if ticket.pod is not None]

    @rule()
    def ask(self):
        self._ask()

    @rule(
        target=pods,
        concurrency=st.integers(1, 3),
        status=st.sampled_from([PodStatus.READY, PodStatus.STARTING, PodStatus.INIT_FAILED]),
    )
    def add_pod(self, concurrency, status):
        return self.world.pod(concurrency, status)

    @rule(
        pod=pods,
        status=st.sampled_from([PodStatus.READY, PodStatus.STARTING, PodStatus.INIT_FAILED, PodStatus.DRAINING]),
    )
    def pod_changes(self, pod, status):
        self.world.dispatcher.set_status(pod, status)

    @rule(pod=consumes(pods))
    def pod_goes(self, pod):
        self.world.dispatcher.remove(pod)

    @precondition(lambda self: self._holders())
    @rule(data=st.data(), duration=st.one_of(st.none(), st.floats(0.001, 5)))
    def end(self, data, duration):
        ticket = data.draw(st.sampled_from(self._holders()))
        self.world.dispatcher.release(ticket, duration)
        self.tickets.remove(ticket)

    @precondition(lambda self: self._holders())
    @rule(data=st.data(), how=st.sampled_from(["busy", "draining", "unreachable"]))
    def refuse(self, data, how):
        ticket = data.draw(st.sampled_from(self._holders()))
        dispatcher = self.world.dispatcher
        try:
            if how == "unreachable":
                got = dispatcher.unreachable(ticket)
            else:
                got = dispatcher.refused(ticket, draining=how == "draining")
        except (Throttled, FunctionNotFound, FunctionFailed):
            assert ticket.pod is None
            self.tickets.remove(ticket)
            return
        assert got == (ticket.pod is not None)

    @precondition(lambda self: self.world.function.waiters)
    @rule(data=st.data())
    def give_up(self, data):
        ticket = data.draw(st.sampled_from(list(self.world.function.waiters)))
        self.world.dispatcher.release(ticket)
        self.tickets.remove(ticket)

    @rule(seconds=st.floats(0.001, 12))
    def time_passes(self, seconds):
        self.world.now += seconds
        self.world.dispatcher.tick()
        self.world.dispatcher.expire()

    @rule(count=st.integers(0, 3))
    def scale_limit(self, count):
        self.world.function.max_replicas = count
        self.world.dispatcher.changed(self.world.function)

    @rule(exists=st.booleans(), failed=st.booleans())
    def function_changes(self, exists, failed):
        self.world.function.manifest = FUNCTION if exists else None
        self.world.function.failure = FunctionFailed("broken", reason="CodeUnreadable") if failed else None
        self.world.dispatcher.changed(self.world.function)

    @invariant()
    def nobody_is_lost_and_nothing_leaks(self):
        function = self.world.function
        self.tickets = [ticket for ticket in self.tickets if ticket.error is None]
        for ticket in self.tickets:
            assert (ticket.pod is not None) != (ticket in function.waiters)
        assert len(function.waiters) == sum(ticket.pod is None for ticket in self.tickets)
        holders = self._holders()
        assert function.in_flight == len(holders)
        seen = {ticket.pod for ticket in holders} | set(function.pods.values())
        for pod in seen:
            assert pod.outstanding == sum(ticket.pod is pod for ticket in holders)
            assert 0 <= pod.outstanding <= pod.capacity

    @invariant()
    def order_is_kept_and_nobody_waits_beside_a_free_slot(self):
        function = self.world.function
        numbers = [ticket.number for ticket in function.waiters]
        assert numbers == sorted(numbers)
        for pod in function.available:
            assert pod.status is PodStatus.READY
            assert pod.outstanding < pod.limit
        if function.waiters:
            assert not function.available
            assert function.manifest is not None
            assert function.max_replicas

    @invariant()
    def every_free_slot_is_known(self):
        function = self.world.function
        for pod in function.pods.values():
            free = pod in function.serving and pod.outstanding < pod.limit
            assert (pod in function.available) == free

    @invariant()
    def as_many_ready_pods_serve_as_max_replicas_allows(self):
        function = self.world.function
        ready = [pod for pod in function.pods.values() if pod.status is PodStatus.READY]
        assert len(function.serving) == min(len(ready), function.max_replicas)
        assert set(function.serving) <= set(ready)


TestDispatcherMachine = DispatcherMachine.TestCase
TestDispatcherMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_admission_is_asked_without_taking_anything():
    world = World(max_waiting_requests=1)
    world.dispatcher.admit(world.function)
    ticket = world.ask()
    with pytest.raises(Throttled):
        world.dispatcher.admit(world.function)
    pod = world.pod()
    assert ticket.pod is pod
    world.dispatcher.admit(world.function)
    world.dispatcher.release(ticket)
    assert (pod.outstanding, len(world.function.waiters)) == (0, 0)
    world.function.manifest = None
    world.dispatcher.changed(world.function)
    world.dispatcher.set_status(pod, PodStatus.GONE)
    with pytest.raises(FunctionNotFound):
        world.dispatcher.admit(world.function)


# -- at most maxReplicas pods


def test_a_ready_pod_beyond_max_replicas_gets_nothing_until_another_one_goes():
    world = World()
    world.function.max_replicas = 1
    first, second = world.pod(), world.pod()
    held = world.ask()
    waiting = world.ask()
    assert (held.pod, waiting.pod) == (first, None)
    world.dispatcher.set_status(first, PodStatus.DRAINING)
    assert waiting.pod is second


def test_a_lower_max_replicas_takes_pods_out_of_service_and_a_higher_one_brings_them_back():
    world = World()
    pods = [world.pod() for _ in range(3)]
    world.function.max_replicas = 1
    world.dispatcher.changed(world.function)
    assert list(world.function.serving) == pods[:1]
    world.function.max_replicas = 2
    world.dispatcher.changed(world.function)
    assert list(world.function.serving) == pods[:2]


# -- warm pods


class Warm:
    """Offers what the test says, once."""

    def __init__(self):
        self.offers = []
        self.asked = 0
        self.listener = None

    def subscribe(self, listener):
        self.listener = listener

    def offer(self, function):
        self.asked += 1
        return self.offers.pop(0) if self.offers else Offer(reason=ColdStartReason.POOL_EMPTY)


@pytest.fixture
def warm():
    return Warm()


def claimed(world, name="pool-0"):
    pod = PoolPod("default", "python3.13", name, f"uid-{name}", "10.0.0.1", 8080)
    return PodState(
        Pod("default", name, "f", "10.0.0.1", 8080, 1, "lambda"), world.function, world.now, claim=Claim(pod)
    )


def test_an_offered_pod_takes_the_request_at_once(warm):
    world = World(warm)
    pod = claimed(world)
    warm.offers = [Offer((pod,), ColdStartReason.CLAIMED)]
    ticket = world.ask()
    assert ticket.pod is pod
    assert ticket.cold_reason is None
    assert world.dispatcher.pod("default", "pool-0") is pod
    assert world.waited == []


def test_without_an_offer_it_waits_and_says_why(warm):
    world = World(warm)
    ticket = world.ask()
    assert ticket.pod is None
    assert ticket.cold_reason is ColdStartReason.POOL_EMPTY
    assert world.waited == [world.function]


def test_a_pod_that_becomes_free_in_the_pool_is_asked_for(warm):
    world = World(warm)
    ticket = world.ask()
    pod = claimed(world)
    warm.offers = [Offer((pod,), ColdStartReason.CLAIMED)]
    warm.listener("default", "nodejs20")
    assert ticket.pod is None
    warm.listener("default", "python3.13")
    assert ticket.pod is pod
    assert ticket.wakes == 1


def test_the_source_is_asked_again_when_it_says_so(warm):
    world = World(warm)
    warm.offers = [Offer(reason=ColdStartReason.STARTING, look_again=0.05)]
    ticket = world.ask()
    assert world.alarms == [world.now + 0.05]
    pod = claimed(world)
    warm.offers = [Offer((pod,), ColdStartReason.CLAIMED)]
    world.now += 0.05
    world.calls[-1]()
    assert ticket.pod is pod


def test_a_request_is_passed_on_and_may_come_back_to_its_place(warm):
    world = World(warm)
    peer = Peer("other", "10.0.0.9")
    warm.offers = [Offer(reason=ColdStartReason.CLAIMED, peer=peer, pass_on=1)]
    ticket = world.ask()
    assert (ticket.pod, ticket.peer, world.function.passed_on) == (None, peer, 1)
    later = world.ask()
    assert not world.dispatcher.returned(ticket)
    assert (ticket.peer, world.function.passed_on) == (None, 0)
    assert list(world.function.waiters) == [ticket, later]
    # it is not passed on again, the other one is
    warm.offers = [Offer(reason=ColdStartReason.CLAIMED, peer=peer, pass_on=5)]
    world.dispatcher.changed(world.function)
    assert (ticket.peer, later.peer) == (None, peer)
    assert later.wakes == 1


def test_what_was_passed_on_is_released_once(warm):
    world = World(warm)
    warm.offers = [Offer(peer=Peer("other", "10.0.0.9"), pass_on=1)]
    ticket = world.ask()
    for _ in range(2):
        world.dispatcher.release(ticket, 1.0)
    assert (world.function.passed_on, world.function.in_flight, world.function.mean_duration) == (0, 0, 0.0)


def test_a_claim_that_failed_leaves_its_request_first_in_line(warm):
    world = World(warm)
    pod = claimed(world)
    warm.offers = [Offer((pod,), ColdStartReason.CLAIMED)]
    ticket = world.ask()
    later = world.ask()
    world.dispatcher.discard(pod)
    assert not world.dispatcher.refused(ticket, draining=True)
    assert list(world.function.waiters) == [ticket, later]
    assert world.function.pods == {}


def test_a_request_that_waited_and_is_passed_on_no_longer_counts_as_waiting_here(warm):
    """Its function was not known to be eligible when it came, so it was reported as waiting."""
    world = World(warm)
    ticket = world.ask()
    assert world.waited == [world.function]
    warm.offers = [Offer(peer=Peer("other", "10.0.0.9"), pass_on=1)]
    world.dispatcher.changed(world.function)
    assert ticket.peer is not None
    assert world.waited == [world.function, world.function]
    assert len(world.function.waiters) == 0
    # one that is passed on at once was never reported
    warm.offers = [Offer(peer=Peer("other", "10.0.0.9"), pass_on=1)]
    world.ask()
    assert len(world.waited) == 2
