"""One invocation's way through pods that answer, refuse, break or are not there, and what is left when it has ended."""

import asyncio

import pytest
from gateway_fakes import FakePod, request, response, whole

from kappa_core.metrics import InvocationType, Outcome


async def test_warm(invoking):
    world = invoking()
    pod, state = await world.add()
    invocation = world.invocation(InvocationType.REQUEST_RESPONSE)
    connection = await invocation.send(request(b'"a"'))
    assert (connection.status, await whole(connection)) == (200, b'"a"')
    assert invocation.has_slot
    invocation.end(Outcome.SUCCESS)
    assert world.function.counts.invocations == {("RequestResponse", "success"): 1}
