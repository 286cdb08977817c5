"""When a reflector tries again: what it waits, over a source that fails as the test says."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from fake_clock import FakeClock

from kappa_kube.connection import Json, Query
from kappa_kube.errors import ApiError, Disconnected, Expired, NoCluster
from kappa_kube.reflector import RELIST_AFTER, Reflector, Resource, Timing
from kappa_kube.table import Table

TIMING = Timing(backoff_first=1.0, backoff_most=8.0)


class Source:
    """Lists are empty. Watches raise, one after the other, and then end the run."""

    def __init__(self, *failures: Exception, of_lists: tuple[Exception, ...] = ()) -> None:
        self.failures = list(failures)
        self.of_lists = list(of_lists)
        self.lists = 0

    async def pages(self, path: str, **query: str) -> AsyncIterator[Json]:
        if self.of_lists:
            raise self.of_lists.pop(0)
        self.lists += 1
        yield {"items": [], "metadata": {"resourceVersion": "1"}}

    async def watch(self, path: str, query: Query, silence: float) -> AsyncGenerator[Any]:
        if not self.failures:
            raise asyncio.CancelledError
        raise self.failures.pop(0)
        yield


async def waits(source: Source, clock: FakeClock) -> list[float]:
    """What a reflector slept after each failure."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    table = Table.of_few([""], lambda raw, seen_at, previous: "", lambda objects: None)
    reflector = Reflector(source, Resource("/x", "x"), "", table, timing=TIMING, clock=clock, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await reflector.run()
    return slept


async def test_each_failure_in_a_row_waits_longer_up_to_a_bound(clock: FakeClock) -> None:
    slept = await waits(Source(*[ApiError(500, "", "down")] * 2, *[Disconnected("broken")] * 6), clock)
    # a list succeeds after every third failure, and begins a new row
    for waited, failures in zip(slept, [1, 2, 3, 1, 2, 3, 1, 2], strict=True):
        bound = min(8.0, 2.0**failures)
        assert bound / 4 <= waited <= bound


async def test_lists_that_fail_wait_up_to_the_bound(clock: FakeClock) -> None:
    slept = await waits(Source(of_lists=(Disconnected("down"),) * 12), clock)
    assert all(2.0 <= waited <= 8.0 for waited in slept[3:])


async def test_what_the_server_asks_to_wait_is_waited(clock: FakeClock) -> None:
    source = Source(of_lists=(ApiError(429, "TooManyRequests", "busy", 7.0),))
    assert await waits(source, clock) == [7.0]


async def test_410_lists_again_at_once_and_the_second_time_later(clock: FakeClock) -> None:
    source = Source(Expired(410, "Expired", "too old"), Disconnected("broken"))
    assert (await waits(source, clock))[0] == 0.0
    assert source.lists == 2
    slept = await waits(Source(of_lists=(Expired(410, "", "old"), Expired(410, "", "old"))), clock)
    assert slept[0] == 0.0
    assert slept[1] > 0.0


async def test_watches_that_fail_again_and_again_end_in_a_new_list(clock: FakeClock) -> None:
    source = Source(*[ApiError(500, "", "no such version")] * RELIST_AFTER)
    await waits(source, clock)
    assert source.lists == 2


async def test_without_a_configuration_it_ends(clock: FakeClock) -> None:
    table = Table.of_few([""], lambda raw, seen_at, previous: "", lambda objects: None)
    with pytest.raises(NoCluster):
        await Reflector(Source(of_lists=(NoCluster("none"),)), Resource("/x", "x"), "", table, clock=clock).run()
