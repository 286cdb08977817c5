"""How many events a lane may take: bounds, fairness between lanes, and the brake."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kappa_gateway.events import capacity
from kappa_gateway.events.capacity import MOST_AHEAD, MOST_AT_ONCE, Brake, Budget, ahead, batch, share

durations = st.floats(min_value=0, max_value=1e6)


@given(st.integers(0, 10**6), durations, st.booleans())
def test_ahead_is_between_one_and_the_most(slots, mean, callers):
    assert 1 <= ahead(slots, mean, callers_wait=callers) <= MOST_AHEAD


def test_ahead_is_fifty_milliseconds_of_work():
    assert ahead(4, 0.01, callers_wait=False) == 20
    assert ahead(4, 30.0, callers_wait=False) == 1
    assert ahead(4, 0.0, callers_wait=False) == 1, "while nothing is known of the function"
    assert ahead(0, 0.01, callers_wait=False) == 1, "the one whose wait starts a pod"
    assert ahead(4, 0.01, callers_wait=True) == 1


@given(st.integers(0, 1000), st.integers(1, MOST_AHEAD), st.integers(0, 2000))
def test_a_batch_fills_what_is_free_and_no_more(free, ahead, pending):
    taken = batch(free_slots=free, ahead=ahead, pending=pending)
    assert taken == 0 or taken + pending == free + ahead
    if pending <= free:
        assert taken >= 1, "a slot that is free is never left waiting for a larger batch"


@given(st.integers(-1000, 10**6), st.integers(0, 10**6))
def test_a_share_is_never_more_than_is_free(free, held):
    more = share(free, held)
    assert 0 <= more <= max(free, 0)
    if free > 0 and not held:
        assert more >= 1


class Lanes(RuleBasedStateMachine):
    """Lanes that take what they may, and keep it for as long as they like."""

    def __init__(self):
        super().__init__()
        self.budget = Budget(20, 1000)
        self.held = {name: [] for name in "abcdefgh"}

    def room(self, name, typical=10):
        held = self.held[name]
        return self.budget.room(held_events=len(held), held_bytes=sum(held), typical_bytes=typical)

    @rule(name=st.sampled_from("abcdefgh"), size=st.integers(0, 60), typical=st.integers(1, 100))
    def take(self, name, size, typical):
        count = self.room(name, typical)
        assert count <= min(MOST_AT_ONCE, self.budget.free_events)
        self.budget.take(count, size * count)
        self.held[name] += [size] * count

    @rule(name=st.sampled_from("abcdefgh"))
    def finish(self, name):
        if self.held[name]:
            self.budget.give(1, self.held[name].pop())

    @invariant()
    def within_the_budget(self):
        held = sum(len(sizes) for sizes in self.held.values())
        assert self.budget.free_events == 20 - held >= 0
        assert self.budget.free_bytes == 1000 - sum(map(sum, self.held.values()))

    @invariant()
    def who_holds_nothing_finds_room_where_there_is_any(self):
        if self.budget.free_events and self.budget.free_bytes > 0:
            for name, held in self.held.items():
                assert held or self.room(name)


TestLanes = Lanes.TestCase
TestLanes.settings = settings(deadline=None, max_examples=60)


def test_one_lane_leaves_a_third_and_two_a_fifth():
    budget = Budget(1000, 10**9)
    held = dict.fromkeys("abc", 0)

    def fill(name):
        while more := budget.room(held_events=held[name], held_bytes=0, typical_bytes=1):
            budget.take(more, 0)
            held[name] += more

    fill("a")
    assert 640 <= held["a"] <= 667
    fill("b")
    assert held["b"] > 200, "one that comes later"
    fill("c")
    assert held["c"] > 50
    assert budget.free_events > 0


def test_large_events_are_taken_few_at_a_time():
    budget = Budget(1000, 64 * 1024 * 1024)
    assert budget.room(held_events=0, held_bytes=0, typical_bytes=1024 * 1024) == 42
    budget.take(60, 60 * 1024 * 1024)
    assert budget.room(held_events=60, held_bytes=60 * 1024 * 1024, typical_bytes=1024 * 1024) == 0
    assert budget.room(held_events=0, held_bytes=0, typical_bytes=1024 * 1024) == 2
    budget.take(4, 4 * 1024 * 1024)
    assert budget.room(held_events=0, held_bytes=0, typical_bytes=1) == 0, "what is full is full"


def test_the_brake_doubles_its_pauses_and_is_released_by_one_success():
    brake = Brake(first=1.0)
    now = 100.0
    pauses = []
    for _ in range(8):
        brake.pull(now, begun=now)
        pauses.append(brake.until - now)
        now = brake.until
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert brake.on
    brake.release()
    assert not brake.on
    assert brake.until <= now


def test_failures_of_one_moment_pull_the_brake_once():
    brake = Brake(first=1.0)
    for moment in (100.0, 100.1, 100.2):
        brake.pull(moment, begun=99.0)
    assert (brake.failures, brake.until) == (1, 101.0)


def test_a_brake_is_never_shorter_than_its_first_pause():
    brake = Brake(first=60.0)
    brake.pull(0.0, 0.0)
    assert brake.until == 60.0
    assert capacity.LONGEST_BRAKE < 60.0
