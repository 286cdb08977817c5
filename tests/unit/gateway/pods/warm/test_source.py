"""What is offered to a function whose requests wait: claimed pods here, or the gateway that claims."""

import pytest

from kappa_core.function import Function
from kappa_core.metrics import ColdStartReason
from kappa_gateway.pods.claim import ClaimState
from kappa_gateway.pods.platform import Peer, Pod, PoolPod
from kappa_gateway.pods.state import FunctionState, PodState, Ticket
from kappa_gateway.pods.warm.book import ClaimBook
from kappa_gateway.pods.warm.free_pods import FreePod
from kappa_gateway.pods.warm.source import MOST_PASSED_ON, WarmPods

RUNTIME = "python3.13"
OWN, OTHER = Peer("own", "10.0.0.1"), Peer("other", "10.0.0.2")


def manifest(**spec):
    return Function.model_validate(
        {
            "metadata": {"name": "f", "generation": 1},
            "spec": {"runtime": RUNTIME, "handler": "main.handler", "code": {"inline": "x"}, **spec},
            "status": {"observedGeneration": 1, "coldStart": {"path": "Pool", "reason": "test"}},
        }
    )


class Free:
    def __init__(self, count):
        self.left = [
            FreePod(PoolPod("default", RUNTIME, f"pool-{number}", f"uid-{number}", "10.1.0.1", 8080), b"")
            for number in range(count)
        ]

    def subscribe(self, listener):
        pass

    def known(self, namespace, runtime):
        return len(self.left) if (namespace, runtime) == ("default", RUNTIME) else 0

    free = known

    def take(self, namespace, runtime):
        return self.left.pop() if self.left else None


class Owners:
    def __init__(self, owner, *, is_known=True):
        self.peer, self.is_known = owner, is_known

    def owner(self, key):
        return self.peer

    def is_own(self, peer):
        return peer is OWN


def world(owner=OWN, free=3, waiting=1, **spec):
    function = FunctionState("default", "f")
    function.apply(manifest(**spec))
    for _ in range(waiting):
        function.waiters[Ticket(function)] = None
    book, prefetched = ClaimBook(), []
    source = WarmPods(
        Free(free),
        owner if isinstance(owner, Owners) else Owners(owner),
        book,
        clock=lambda: 0.0,
        wall_clock=lambda: 1000.0,
        prefetch=prefetched.append,
    )
    return source, function, book, prefetched


def test_the_gateway_that_claims_offers_claimed_pods():
    source, function, book, _ = world()
    offer = source.offer(function)
    (pod,) = offer.pods
    assert (offer.reason, offer.peer) == (ColdStartReason.CLAIMED, None)
    assert pod.claim.state is ClaimState.CLAIMED
    assert (pod.capacity, pod.start.addressed) == (1, 1000.0)
    assert book.get(("default", pod.name)) is pod


def test_the_others_pass_requests_on_without_a_pod_all_that_wait():
    source, function, book, _ = world(OTHER, waiting=7, scaling={"maxReplicas": 1})
    offer = source.offer(function)
    assert (offer.pods, offer.peer, offer.pass_on) == ((), OTHER, 7)
    assert list(book) == []
    function.passed_on = MOST_PASSED_ON - 2
    assert source.offer(function).pass_on == 2


def test_with_pods_of_their_own_they_pass_on_what_lacks_a_pod():
    source, function, _, _ = world(OTHER, waiting=5, scaling={"maxReplicas": 4})
    function.mean_duration = 60.0
    pod = PodState(Pod("default", "p", "f", "10.1.0.9", 8080, 1, "lambda"), function, 0.0)
    pod.endpoint = object()
    function.pods["p"] = pod
    function.serving[pod] = None
    function.in_flight = 1
    assert source.offer(function).pass_on == 3
    function.passed_on = 3
    assert source.offer(function).pass_on == 0


@pytest.mark.parametrize(
    ("owner", "free", "reason"),
    [
        (Owners(None, is_known=False), 3, ColdStartReason.NO_POOL),
        (None, 3, ColdStartReason.HANDOVER),
        (Peer("other", None), 3, ColdStartReason.HANDOVER),
        (OWN, 0, ColdStartReason.NO_POOL),
    ],
)
def test_why_nothing_is_offered(owner, free, reason):
    source, function, _, _ = world(owner, free)
    offer = source.offer(function)
    assert (offer.pods, offer.pass_on, offer.reason) == ((), 0, reason)
    assert source.claimant(function) is None


def test_a_function_that_turned_out_not_to_fit_is_offered_again_once_it_changes():
    source, function, _, _ = world()
    source.refuse(function, "too large")
    assert source.offer(function).reason is ColdStartReason.NOT_ELIGIBLE
    function.apply(manifest(env=[{"name": "A", "value": "1"}]))
    assert len(source.offer(function).pods) == 1


def test_who_else_claims():
    source, function, _, _ = world(OTHER)
    assert source.claimant(function) is OTHER
    assert world(OWN)[0].claimant(function) is None
    function.is_pool_eligible = False
    assert source.claimant(function) is None


def test_the_archive_of_an_eligible_function_is_fetched_ahead():
    archive = {"archive": {"url": "https://example.com/a.zip", "sha256": "0" * 64}}
    source, function, _, prefetched = world(code=archive)
    source.function_changed(function)
    assert [one.url for one in prefetched] == ["https://example.com/a.zip"]
    function.is_pool_eligible = False
    source.function_changed(function)
    assert len(prefetched) == 1
