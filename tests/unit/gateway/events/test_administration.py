"""Redrive and purge: each step may be repeated, and each call is bounded."""

from event_fakes import NOW, FakeQueue, make_dead, make_event, make_functions

from kappa_core.event import derived_id
from kappa_gateway.events import administration as administrations
from kappa_gateway.events.administration import Administration


class Desk:
    def __init__(self, *ids):
        self.queue, self.accepted = FakeQueue(), []
        self.queue.dead = {event_id: make_dead(make_event(event_id)) for event_id in ids}
        self.administration = Administration(self.queue, make_functions(), accept=self._accept, clock=lambda: NOW + 5)

    async def _accept(self, event):
        self.accepted.append(event)
        return True


async def test_a_redriven_event_is_a_new_one_and_leaves_the_dead_letter():
    desk = Desk("one")
    result = await desk.administration.redrive("default", "hello", ["one", "two"])
    assert (result.done, result.not_found) == ([("one", derived_id("one", "redrive"))], ["two"])
    (event,) = desk.accepted
    assert (event.received_at, event.attributes["redrive-of"], event.keyed) == (NOW + 5, "one", True)
    assert desk.queue.dead == {}


async def test_a_call_redrives_a_bounded_number(monkeypatch):
    monkeypatch.setattr(administrations, "MOST_AT_ONCE", 16)
    desk = Desk(*(str(number) for number in range(40)))
    result = await desk.administration.redrive_all("default", "hello", until=NOW)
    assert (len(result.done), result.more) == (16, True)
    assert (await desk.administration.redrive_all("default", "hello", until=NOW - 1)).done == []


async def test_what_died_after_that_time_stays():
    desk = Desk("one")
    assert await desk.administration.purge_dead("default", "hello", until=NOW - 1) == (0, False)
    assert await desk.administration.purge_dead("default", "hello", until=NOW) == (1, False)


async def test_a_purge_drops_the_lane():
    desk = Desk()
    assert await desk.administration.purge("default", "hello") == 3
