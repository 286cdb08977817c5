"""Asynchronous invocations through a gateway in this process, with SQLite as the queue and little servers as pods."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from kappa_core.event import Event, Kind, Lane, Record, Status
from kappa_core.function import Function

FAST = {"event_retry_delays": [0.05, 0.1], "event_first_backoff": 0.05, "event_longest_backoff": 0.4, "queue_lease": 1.0}
RETRYING_MEANS_AGAIN = 15.0
"""Seconds in which what is to come must have come."""


@pytest.fixture
def asynchronous(tools, tmp_path):
    """A gateway with a queue: `async with asynchronous([functions], **settings) as run`."""

    @asynccontextmanager
    async def start(functions=None, **settings):
        backend = tools.backend()
        backend.functions = functions if functions is not None else [tools.function()]
        given = {**FAST, "queue_url": f"sqlite:{tmp_path}/queue.sqlite", **settings}
        async with tools.running(backend, **given) as run:
            yield run

    return start


async def send(run, name="hello", body=b"{}", **headers) -> str:
    answer = await run.invoke(name, body, **{"X_Amz_Invocation_Type": "Event", **headers})
    assert answer.status == 202, answer.body
    return answer.header("x-amzn-requestid")


async def final_record(run, request_id, function="hello") -> Record:
    deadline = asyncio.get_running_loop().time() + RETRYING_MEANS_AGAIN
    while True:
        record = await run.gateway.events.queue.record("default", function, request_id)
        if record is not None and record.status.final:
            return record
        assert asyncio.get_running_loop().time() < deadline, f"no end of {request_id}: {record}"
        await asyncio.sleep(0.01)


async def test_an_event_is_run_and_its_result_recorded(asynchronous):
    async with asynchronous() as run:
        pod = await run.add_pod()
        request_id = await send(run, body=b'{"n": 1}', X_Amz_Client_Context="e30=", X_Amzn_Trace_Id="Root=1-2-3")
        record = await final_record(run, request_id)
        assert (record.status, record.attempts, record.result) == (Status.SUCCEEDED, 1, '{"n": 1}')
        (request,) = pod.requests
        assert request.headers["kappa-request-id"] == request_id
        assert request.headers["kappa-attempt"] == "1"
        assert request.headers["x-amz-client-context"] == "e30="
        assert request.headers["x-amzn-trace-id"] == "Root=1-2-3"
        assert await run.gateway.events.queue.lanes() == [] or all(
            state.waiting + state.held == 0 for state in await run.gateway.events.queue.lanes()
        )
