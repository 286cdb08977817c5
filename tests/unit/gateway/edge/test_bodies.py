"""Request bodies: whole, within a size and a time, and the memory that all of them share."""

import asyncio

import pytest
from gateway_fakes import VirtualLoop
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_core.errors import RequestTooLarge
from kappa_gateway.edge.bodies import FREE_BYTES, Body, BodyMemory, BodyTimeout, declared_length
from kappa_gateway.invoke.outcome import ClientGone

LIMIT = 4 * FREE_BYTES


def body(*messages, memory=None, length=None):
    """A body that comes as these messages: bytes, None for what never comes, or "leave"."""
    given = list(messages)

    async def receive():
        message = given.pop(0)
        if message is None:
            await asyncio.Event().wait()
        if message == "leave":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": message, "more_body": bool(given)}

    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    return Body(receive, headers, memory or BodyMemory(10 * LIMIT), limit=LIMIT, timeout=60.0)


@pytest.mark.parametrize("is_here", [True, False])
@pytest.mark.parametrize("pieces", [(b"",), (b"abc",), (b"ab", b"", b"c"), (b"x" * LIMIT,)])
async def test_it_is_whole(pieces, is_here):
    assert await body(*pieces).read(is_here=is_here) == b"".join(pieces)


@pytest.mark.parametrize("is_here", [True, False])
@pytest.mark.parametrize("length", [None, LIMIT + 1])
async def test_over_the_limit(is_here, length):
    memory = BodyMemory(10 * LIMIT)
    one = body(b"x" * LIMIT, b"x", memory=memory, length=length)
    with pytest.raises(RequestTooLarge, match=str(LIMIT)):
        await one.read(is_here=is_here)
    one.close()
    assert memory.free == memory.limit


async def test_a_body_that_is_said_to_be_too_large_is_not_read():
    with pytest.raises(RequestTooLarge):
        await body(None, length=LIMIT + 1).read(is_here=False)


async def test_one_that_does_not_come():
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(BodyTimeout, match="60 s"):
        await body(b"a", None).read(is_here=False)
    assert loop.time() - before == pytest.approx(60.0)


async def test_a_caller_that_leaves():
    with pytest.raises(ClientGone):
        await body(b"a", "leave").read(is_here=False)


@pytest.mark.parametrize(
    ("pieces", "length", "held"),
    [
        ((b"x" * FREE_BYTES,), FREE_BYTES, 0),
        ((b"x" * (FREE_BYTES + 1), b""), FREE_BYTES + 1, FREE_BYTES + 1),
        ((b"x" * FREE_BYTES, b""), None, 0),
        ((b"x" * (FREE_BYTES + 1), b""), None, LIMIT),
    ],
    ids=["small", "large", "small of unknown length", "large of unknown length"],
)
async def test_large_ones_hold_memory_until_they_are_closed(pieces, length, held):
    memory = BodyMemory(10 * LIMIT)
    one = body(*pieces, memory=memory, length=length)
    await one.read(is_here=False)
    assert memory.limit - memory.free == held
    one.close()
    one.close()
    assert memory.free == memory.limit


async def test_who_gets_no_memory_is_not_read_and_may_leave():
    memory = BodyMemory(LIMIT)
    await memory.take(LIMIT)
    reading = asyncio.create_task(body(b"x" * LIMIT, memory=memory, length=LIMIT).read(is_here=False))
    next_one = asyncio.create_task(memory.take(10))
    await asyncio.sleep(1.0)
    assert not reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    memory.give(LIMIT)
    await next_one
    assert memory.free == LIMIT - 10


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["take", "give", "leave"]), st.integers(0, 150)), max_size=30))
def test_memory_is_given_in_order_and_never_more_than_there_is(steps):
    async def scenario():
        memory = BodyMemory(100)
        order, asked, held = [], [], []

        async def take(number, size):
            await memory.take(size)
            order.append(number)

        for number, (step, size) in enumerate(steps):
            if step == "take":
                asked.append((number, size, asyncio.create_task(take(number, size))))
            elif step == "give" and held:
                memory.give(held.pop(0)[1])
            elif step == "leave":
                for one in [one for one in asked if not one[2].done()][:1]:
                    one[2].cancel()
                    asked.remove(one)
            await asyncio.sleep(0.001)
            for one in [one for one in asked if one[2].done()]:
                asked.remove(one)
                held.append(one)
            assert memory.free == 100 - sum(min(size, 100) for _, size, _ in held)
            assert memory.free >= 0
            assert order == sorted(order)
            if asked:
                assert min(asked[0][1], 100) > memory.free
        for one in asked:
            one[2].cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())


def test_the_declared_length():
    assert declared_length([(b"host", b"a"), (b"content-length", b"12")]) == 12
    assert declared_length([(b"transfer-encoding", b"chunked")]) is None
