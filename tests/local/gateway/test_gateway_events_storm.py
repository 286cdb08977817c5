"""Everything at once, by a seeded die: pods that break, refuse and fail, an unsteady queue, gateways that end."""

import asyncio
import contextlib
import random
import time
from collections import Counter

import pytest

from kappa_core.event import Event, Kind, Lane, Status
from kappa_gateway.pods.platform import Pod as AgentPod
from kappa_gateway.queue.protocol import QueueUnavailable

EVENTS = 150
FUNCTIONS = ("a", "b", "c")
TROUBLED = ("receive", "save_record", "ack", "nack", "extend", "lanes", "record", "dead_letter", "enqueue")


class Pod:
    """Runs each attempt or does not, as the die falls; keeps what it answered, as an agent does."""

    def __init__(self, tools, die):
        self.tools, self.die = tools, die
        self.runs = Counter()
        self.kept = {}

    async def __call__(self, request):
        response = self.tools.response
        if request.target.startswith("/kept/"):
            key = tuple(request.target.split("/")[-2:])
            if request.method == "DELETE":
                self.kept.pop(key, None)
                return response()
            return await asyncio.shield(self.kept[key]) if key in self.kept else response(b"{}", "404 Not Found")
        key = (request.headers["kappa-request-id"], request.headers["kappa-attempt"])
        fate = self.die.random()
        if fate < 0.1:
            return response(b"{}", "429 Too Many Requests", {"Kappa-Refused": "busy"})
        if fate < 0.15:
            request.writer.transport.abort()  # before it ran
            return None
        self.runs[key] += 1
        self.kept[key] = asyncio.create_task(self.run(key[0], fails=fate < 0.3))
        answer = await asyncio.shield(self.kept[key])
        if fate > 0.9:
            request.writer.transport.abort()  # after it ran: the answer is lost, and kept
            return None
        return answer

    async def run(self, request_id, *, fails):
        """Goes on, whatever becomes of the gateway."""
        await asyncio.sleep(0.6 if self.die.random() < 0.1 else self.die.random() * 0.02)
        headers = {"kappa-request-id": request_id}
        if fails:
            return self.tools.response(b'{"errorType": "E"}', headers={**headers, "X-Amz-Function-Error": "Unhandled"})
        return self.tools.response(b'"well"', headers=headers)


def trouble(queue, die):
    """From now on each method of the queue fails now and then, before or after it did what it was asked."""
    for name in TROUBLED:
        real = getattr(queue, name)

        async def troubled(*args, real=real, **kwargs):
            fate = die.random()
            if fate < 0.05:
                raise QueueUnavailable("before")
            result = await real(*args, **kwargs)
            if fate > 0.97 and real.__name__ not in ("receive", "enqueue"):
                raise QueueUnavailable("after")
            return result

        setattr(queue, name, troubled)


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_event_ends_and_no_attempt_runs_twice(tools, tmp_path, seed):
    die = random.Random(seed)
    settings = {
        "queue_url": f"sqlite:{tmp_path}/queue.sqlite",
        "queue_lease": 0.6,
        "event_retry_delays": [0.05],
        "event_first_backoff": 0.05,
        "event_longest_backoff": 0.3,
        "events_in_hand": 20,
        "drain_timeout": 0.1,
    }
    pods = {name: Pod(tools, die) for name in FUNCTIONS}
    accepted = []

    async def gateway(seconds):
        backend = tools.backend()
        backend.functions = [tools.function(name) for name in FUNCTIONS]
        async with contextlib.AsyncExitStack() as ends:
            for number, (name, pod) in enumerate(pods.items()):
                # there before the gateway: it asks those it knows once it is synced, and runs what none of them keeps
                served = tools.pod(pod)
                await served.start()
                ends.push_async_callback(served.stop)
                backend.pods.append(
                    AgentPod("default", f"pod-{name}", name, "127.0.0.1", served.port, 1 + number, "lambda")
                )
            run = await ends.enter_async_context(tools.running(backend, **settings))
            events = run.gateway.events
            real_record = events.queue.record
            trouble(events.queue, die)
            while len(accepted) < EVENTS:
                name = die.choice(FUNCTIONS)
                event = Event(f"e{len(accepted)}", Lane(Kind.INVOCATION, "default", name), b"{}", time.time())
                try:
                    await events.intake.accept(event)
                except QueueUnavailable:
                    continue
                accepted.append(event)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                records = [await real_record("default", event.lane.function, event.id) for event in accepted]
                if all(record is not None and record.status.final for record in records):
                    return records
                await asyncio.sleep(0.05)
        return None

    for _ in range(3):
        assert await gateway(0.4) is None or accepted, "it was cut off, or it was quick"
    records = await gateway(40.0)
    assert records is not None, "events without an end"
    statuses = Counter(record.status for record in records)
    assert statuses[Status.SUCCEEDED] > EVENTS * 0.8
    assert set(statuses) <= {Status.SUCCEEDED, Status.FAILED}
    runs = sum((pod.runs for pod in pods.values()), Counter())
    assert {key: count for key, count in runs.items() if count > 1} == {}
    for event, record in zip(accepted, records, strict=True):
        assert sum(count for (id, _), count in runs.items() if id == event.id) == record.attempts
