"""A runtime process's life, driven by whatever may happen to it, without a process, a socket or a clock."""

import random
from typing import Any

import pytest

from kappa_core.agent_config import AgentConfig
from kappa_runtime.start.child import Child
from kappa_runtime.worker import errors, states
from kappa_runtime.worker.invocation import Answer, Invocation
from kappa_runtime.worker.process import RuntimeProcess
from kappa_runtime.worker.states import Event, State

STATES = {value for name, value in vars(State).items() if name.isupper()}
EVENTS = {value for name, value in vars(Event).items() if name.isupper()}


@pytest.mark.parametrize("table", [states.OWN, states.SIDECAR], ids=["own", "sidecar"])
class TestTables:
    def test_they_know_states_and_events_alone(self, table: Any) -> None:
        assert {state for state, _ in table} | set(table.values()) <= STATES
        assert {event for _, event in table} <= EVENTS

    def test_every_state_is_reached_and_comes_to_an_end(self, table: Any) -> None:
        reached, more = {State.STOPPED}, True
        while more:
            found = {after for (before, _), after in table.items() if before in reached}
            more = not found <= reached
            reached |= found
        only_own = {State.FETCHING, State.RESTARTING, State.ENDING}
        assert reached == (STATES - {State.FAILED} if table is states.OWN else STATES - only_own)
        assert all(table[state, Event.CLOSE] == State.CLOSING for state in reached)

    def test_nothing_starts_once_the_agent_closes(self, table: Any) -> None:
        assert {after for (before, _), after in table.items() if before == State.CLOSING} == {State.CLOSING}

    def test_only_an_idle_process_takes_an_invocation(self, table: Any) -> None:
        assert [before for before, event in table if event == Event.TAKEN] == [State.IDLE]


class Timer:
    def __init__(self, loop: "Loop", callback: Any) -> None:
        self.loop, self.callback = loop, callback

    def cancel(self) -> None:
        if self.loop.timer is self:
            self.loop.timer = None


class Loop:
    """Has one timer at most, as a process has."""

    timer: Timer | None = None

    def call_later(self, delay: float, callback: Any) -> Timer:
        self.timer = Timer(self, callback)
        return self.timer


class Control:
    """A process of the agent's own, or a sidecar, whose doings are noted."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.transitions = states.SIDECAR if kind == "sidecar" else states.OWN
        self.lost_limit = None if kind == "sidecar" else 10.0
        self.start_event = Event.FETCH if kind == "archive" else Event.START
        self.pid = 0
        self.starts_fail = False
        self.unaware = False
        self.overdue: dict[str, object] | None = None
        self.ended = True
        self.log: list[str] = []

    def start(self, *, within_invocation: bool) -> Child | None:
        self.log.append("within" if within_invocation else "start")
        if self.kind == "sidecar":
            return None
        if self.starts_fail:
            raise errors.StartError(errors.EXIT_ERROR, "no process can be started")
        assert not self.pid, "there is one already"
        self.pid = 7
        return Child(7, -1, 1.0)

    def start_timer(self, started: float) -> float:
        return 1.0

    def start_overdue(self, *, within_invocation: bool, wanted: bool) -> dict[str, object] | None:
        if self.start_event == Event.FETCH:
            return errors.start_error("Kappa.CodeUnreadable", "no archive yet")
        return self.overdue

    def fetch_failure(self, status: int, said: bytes) -> errors.StartError | None:
        if status:
            return errors.StartError("Kappa.CodeUnreadable", "no archive")
        self.start_event = Event.START
        return None

    def on_serving(self) -> None:
        self.log.append("serving")

    def on_exit(self) -> Child | None:
        self.pid = 0
        child = Child(7, -1, 1.0)
        return Unaware(7, -1, 1.0) if self.unaware else child

    def has_ended(self, *, asked: bool, connected: bool) -> bool:
        return self.kind == "sidecar" and self.ended

    def signal(self, number: int) -> None:
        self.log.append(f"signal {number}")

    def kill(self) -> None:
        self.log.append("kill")


class Unaware(Child):
    def ended_unaware(self) -> bool:
        return True


class Connection:
    def __init__(self) -> None:
        self.sent: list[Invocation] = []
        self.aborted = False

    def send(self, invocation: Invocation, deadline_ms: int) -> None:
        self.sent.append(invocation)

    def abort(self) -> None:
        self.aborted = True


class Nothing:
    """A Runtime API's port and a journal that do nothing."""

    connections: tuple[()] = ()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: b""


class World:
    """A process, and the agent around it."""

    def __init__(self, kind: str = "own") -> None:
        self.loop, self.control = Loop(), Control(kind)
        self.answers: list[tuple[str, Answer]] = []
        self.failures: list[object] = []
        self.wanted = False
        self.idle = self.stopped = self.given = 0
        config = AgentConfig(function_name="f", timeout=3.0)
        nothing: Any = Nothing()
        loop: Any = self.loop
        control: Any = self.control
        self.process = RuntimeProcess(config, loop, control, nothing, nothing, self)
        self.connection: Any = Connection()

    @property
    def state(self) -> str:
        return self.process.state

    def on_idle(self, process: RuntimeProcess) -> None:
        self.idle += 1

    def on_init_failed(self, error: dict[str, object]) -> None:
        self.failures.append(error["errorType"])

    def on_stopped(self) -> None:
        self.stopped += 1

    def finish(self, invocation: Invocation, answer: Answer) -> None:
        self.answers.append((invocation.request_id, answer))

    def take_opening(self, started: float) -> bytes:
        return b""

    # what may happen

    def start(self, within: bool = False) -> None:
        if self.state == State.STOPPED:
            self.process.start(within_invocation=within)

    def ask(self) -> None:
        self.process.on_next(self.connection)

    def ask_anew(self) -> None:
        self.connection = Connection()
        self.process.on_next(self.connection)

    def give(self) -> None:
        if self.state == State.IDLE:
            self.given += 1
            self.process.dispatch(Invocation(f"r-{self.given}", b"1", self.connection))

    def answer(self) -> None:
        if self.process.is_running(f"r-{self.given}"):
            self.process.on_response(b"2", b"application/json")

    def too_large(self) -> None:
        if self.process.is_running(f"r-{self.given}"):
            self.process.on_response_too_large(9)

    def fail_init(self) -> None:
        self.process.on_init_error(b"{}", "Boom")

    def disconnect(self) -> None:
        self.process.on_connection_lost(self.connection)

    def time_out(self) -> None:
        timer, self.loop.timer = self.loop.timer, None
        if timer is not None:
            timer.callback()

    def exit(self, status: int = 0) -> None:
        if self.control.pid:
            self.process.on_exit(status)

    def exit_badly(self) -> None:
        self.exit(256)

    def exit_unaware(self) -> None:
        self.control.unaware = True
        self.exit(256)
        self.control.unaware = False

    def starts_fail(self) -> None:
        self.control.starts_fail = not self.control.starts_fail

    def start_is_overdue(self) -> None:
        self.control.overdue = None if self.control.overdue else errors.start_timed_out(10, within_invocation=False)

    def still_there(self) -> None:
        self.control.ended = not self.control.ended

    def close(self) -> None:
        self.process.give_up("the pod stops")
        self.process.stop(15)


HAPPENINGS = [
    *(World.start, World.ask, World.ask_anew, World.give, World.answer, World.too_large, World.fail_init),
    *(World.disconnect, World.time_out, World.exit, World.exit_badly, World.exit_unaware),
    *(World.starts_fail, World.start_is_overdue, World.still_there),
    # what most others need before them
    *(World.start, World.ask) * 4,
    *(World.give, World.disconnect) * 2,
]


@pytest.mark.parametrize("kind", ["own", "archive", "sidecar"])
def test_whatever_happens_each_invocation_is_answered_once(kind: str) -> None:
    for seed in range(1000):
        check(kind, random.Random(seed))


def check(kind: str, chance: random.Random) -> None:
    world, story = World(kind), []
    for _ in range(60):
        happening = chance.choice(HAPPENINGS)
        story.append(happening.__name__)
        happening(world)
        assert (world.state == State.BUSY) == (len(world.answers) < world.given), story
        if kind != "sidecar" and world.state not in (State.STOPPED, State.IDLE, State.RESTARTING, State.ENDING):
            assert world.loop.timer is not None, f"it would wait for ever: {story}"
    world.close()
    assert [request_id for request_id, _ in world.answers] == [f"r-{number + 1}" for number in range(world.given)]
    world.control.log.clear()
    for happening in chance.choices(HAPPENINGS, k=10):
        happening(world)
    assert world.state == State.CLOSING
    assert not {"start", "within"} & set(world.control.log), "nothing is started any more"


def test_a_start_and_an_invocation() -> None:
    world = World()
    world.start()
    assert world.state == State.STARTING
    world.ask()
    assert (world.state, world.idle, world.loop.timer) == (State.IDLE, 1, None)
    world.give()
    assert (world.state, len(world.connection.sent)) == (State.BUSY, 1)
    world.answer()
    assert (world.state, len(world.answers)) == (State.RETURNING, 1)
    world.ask()
    assert world.state == State.IDLE


def test_a_start_that_is_overdue_is_repeated_within_an_invocation() -> None:
    world = World()
    world.start()
    world.time_out()
    assert world.state == State.RESTARTING
    world.exit()
    assert (world.state, world.control.log) == (State.STARTING, ["start", "within"])


def test_a_timeout_kills_answers_and_starts_again() -> None:
    world = World()
    for step in (world.start, world.ask, world.give, world.time_out):
        step()
    assert (world.state, world.control.log[-1]) == (State.RESTARTING, "kill")
    assert b"Sandbox.Timedout" in world.answers[0][1].body
    world.ask()
    assert world.state == State.RESTARTING, "the killed one has no more say"
    world.exit()
    assert world.state == State.STARTING


def test_a_process_that_ends_with_nothing_to_do_waits_for_the_next_invocation() -> None:
    world = World()
    for step in (world.start, world.ask, world.disconnect):
        step()
    assert world.state == State.LOST
    world.exit()
    assert (world.state, world.stopped) == (State.STOPPED, 1)


def test_a_failed_start_waits_for_its_exit_and_is_not_repeated() -> None:
    world = World()
    world.start()
    world.fail_init()
    assert (world.state, world.failures) == (State.ENDING, ["Boom"])
    world.time_out()
    assert world.control.log == ["start", "kill"]
    world.exit()
    assert (world.state, world.control.log) == (State.STOPPED, ["start", "kill"])


def test_a_process_that_never_learnt_its_function_is_replaced() -> None:
    world = World()
    world.start()
    world.exit_unaware()
    assert (world.state, world.failures) == (State.STARTING, [])


def test_an_archive_comes_before_the_start() -> None:
    world = World("archive")
    world.start()
    assert world.state == State.FETCHING
    world.exit_badly()
    assert (world.state, world.failures) == (State.STOPPED, ["Kappa.CodeUnreadable"])
    world.start()
    world.exit()
    assert world.state == State.STARTING


def test_a_sidecar_whose_start_failed_may_come_back() -> None:
    world = World("sidecar")
    world.start()
    world.start_is_overdue()
    world.time_out()
    assert (world.state, world.loop.timer) == (State.FAILED, None)
    world.ask()
    assert world.state == State.IDLE


def test_a_sidecar_that_ends_on_an_invocation() -> None:
    world = World("sidecar")
    for step in (world.start, world.ask, world.give, world.disconnect):
        step()
    assert world.state == State.STARTING
    assert b"Runtime.ExitError" in world.answers[0][1].body
