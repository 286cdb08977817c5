"""Which answers to events an agent keeps, for whom and how long, with time told by the test."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import wire
from kappa_runtime.agent import gateway_wire, kept_answers
from kappa_runtime.worker.invocation import Answer, Invocation

BODY = b"x" * 976  # with the overhead and the head a little over 2 KiB


class Loop:
    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_later(self, delay, callback, *args):
        timer = Timer(self.now + delay, callback, args)
        self.timers.append(timer)
        return timer

    def advance(self, seconds):
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer.when <= end), key=lambda timer: timer.when):
            self.timers.remove(due[0])
            self.now = due[0].when
            due[0].callback(*due[0].args)
        self.now = end


class Timer:
    def __init__(self, when, callback, args):
        self.when, self.callback, self.args = when, callback, args

    def cancel(self):
        self.callback, self.args = lambda: None, ()


class Holder:
    """A connection, as far as kept answers know one."""

    def __init__(self):
        self.got = []

    def respond(self, status, head, body):
        self.got.append((status, body))


class Store(kept_answers.KeptAnswers):
    def __init__(self, budget=1 << 20):
        self.loop = Loop()
        self.changes, self.lines = [], []
        super().__init__(self.loop, budget, changed=lambda: self.changes.append(len(self)), log=self.lines.append)

    def run(self, number, holder=None, body=b"1"):
        """An attempt that is begun by `holder` and answered at once."""
        one = self.begin((f"id-{number}", 1))
        if holder is not None:
            self.hold(one, holder)
        self.end(one, body)
        return one

    @staticmethod
    def end(one, body=b"1"):
        one.answer(Invocation(one.key[0], b"{}", one), Answer(body))


def test_all_that_ask_get_the_answer_once_it_is_there():
    store, holders = Store(), [Holder() for _ in range(3)]
    one = store.begin(("id", 1))
    for holder in holders:
        store.hold(one, holder)
    assert [holder.got for holder in holders] == [[], [], []]
    store.end(one)
    late = Holder()
    store.hold(one, late)
    assert [holder.got for holder in [*holders, late]] == [[(200, b"1")]] * 4


def test_what_was_seen_to_is_forgotten():
    store, holder = Store(), Holder()
    one = store.run(1, holder)
    assert store.find(("id-1", 1)) is one
    assert store.forget(one)
    assert store.find(("id-1", 1)) is None
    assert (len(store), store.size, store.changes) == (0, 0, [0])
    assert not store.forget(one)
    store.leave(one, holder)
    assert len(store._orphans) == 0


def test_what_runs_is_not_forgotten():
    store = Store()
    one = store.begin(("id", 1))
    assert not store.forget(one)
    assert store.find(("id", 1)) is one


def test_while_a_connection_holds_it_time_does_not_count():
    store, first, second = Store(), Holder(), Holder()
    one = store.run(1, first)
    store.loop.advance(10 * wire.KEPT_SECONDS)
    store.leave(one, first)
    store.loop.advance(wire.KEPT_SECONDS - 1)
    store.hold(one, second)
    store.loop.advance(10 * wire.KEPT_SECONDS)
    assert store.find(one.key) is one
    store.leave(one, second)
    store.loop.advance(wire.KEPT_SECONDS - 1)
    assert store.find(one.key) is one
    store.loop.advance(1)
    assert store.find(one.key) is None
    assert not store.loop.timers


def test_a_connection_that_closes_while_it_runs():
    store, holder = Store(), Holder()
    one = store.begin(("id", 1))
    store.hold(one, holder)
    store.leave(one, holder)
    store.loop.advance(10 * wire.KEPT_SECONDS)
    store.end(one)
    assert (holder.got, len(store._orphans)) == ([], 1)
    store.loop.advance(wire.KEPT_SECONDS)
    assert len(store) == 0


def test_each_orphan_has_its_own_time():
    store = Store()
    for number in range(5):
        store.run(number)
        store.loop.advance(10)
    store.loop.advance(wire.KEPT_SECONDS - 50)
    assert [store.find((f"id-{number}", 1)) is None for number in range(5)] == [True] + [False] * 4
    store.loop.advance(25)
    assert len(store) == 2


def test_draining_shortens_the_time_of_orphans():
    store, holder = Store(), Holder()
    store.run(1)
    store.loop.advance(wire.KEPT_DRAIN_SECONDS)
    store.run(2)
    store.run(3, holder)
    store.drain()
    assert len(store._orphans) == 1
    store.loop.advance(wire.KEPT_DRAIN_SECONDS)
    assert (len(store._orphans), len(store)) == (0, 1)


def test_beyond_the_budget_orphans_go_first_and_the_oldest_of_them():
    store, holder = Store(budget=10_000), Holder()
    held = store.run(0, holder, BODY)
    for number in range(1, 6):
        store.run(number, body=BODY)
    assert store.size <= 10_000
    assert store.find(held.key) is held
    assert [store.find((f"id-{number}", 1)) is None for number in range(1, 6)] == [True, True, False, False, False]
    for number in range(6, 12):
        store.run(number, holder, BODY)
    assert store.size <= 10_000
    assert len(store._orphans) == 0
    assert store.find(held.key) is None
    assert store.find(("id-11", 1)) is not None


def test_an_answer_over_the_whole_budget_still_reaches_who_waits():
    store, holder = Store(budget=1000), Holder()
    store.run(1, holder, BODY)
    assert holder.got == [(200, BODY)]
    assert (len(store), store.size) == (0, 0)


def test_what_is_dropped_is_said_now_and_then():
    store = Store(budget=1000)
    for number in range(10):
        store.run(number)
    assert len(store.lines) == 1
    assert b"had handled them: 1." in store.lines[0]
    store.loop.advance(kept_answers.LOG_PAUSE)
    assert b"had handled them: 9." in store.lines[1]
    store.loop.advance(10 * kept_answers.LOG_PAUSE)
    assert len(store.lines) == 2
    assert not store.loop.timers


@pytest.mark.parametrize(("memory", "bytes_"), [(16, 1 << 20), (64, 4 << 20), (128, 8 << 20), (10_240, 8 << 20)])
def test_the_budget(memory, bytes_):
    assert kept_answers.budget(memory) == bytes_


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "hold", "leave", "forget", "wait"]), st.integers(0, 4)), max_size=60
)


@given(STEPS, st.integers(1000, 8000))
def test_whatever_happens_the_books_agree(steps, budget):
    store, holders = Store(budget), {}
    for step, number in steps:
        key = (f"id-{number}", 1)
        one = store.find(key)
        if step == "begin" and one is None:
            store.begin(key)
        elif step == "end" and one is not None and one.head is None:
            store.end(one, b"x" * number * 400)
        elif step == "hold" and one is not None:
            holders.setdefault(one, Holder())
            store.hold(one, holders[one])
        elif step == "leave" and one is not None and one in holders:
            store.leave(one, holders.pop(one))
        elif step == "forget" and one is not None:
            store.forget(one)
        elif step == "wait":
            store.loop.advance(number * 20)
        known = list(store._known.values())
        answered = [one for one in known if one.head is not None]
        assert store.size == sum(one.size for one in answered) <= budget
        assert set(store._orphans) == {one for one in answered if not one.holders}
        assert all(store.loop.now - one.orphaned_at < wire.KEPT_SECONDS for one in store._orphans)


@pytest.mark.parametrize(("value", "attempt"), [(b"1", 1), (b"17", 17)])
def test_an_attempt(value, attempt):
    assert gateway_wire.read_attempt(value) == attempt


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"1.0", b"first", b"1" * 10])
def test_an_attempt_that_is_none(value):
    with pytest.raises(gateway_wire.BadRequest, match="a whole number from 1"):
        gateway_wire.read_attempt(value)
