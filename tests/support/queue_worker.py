"""A process to be killed: enqueues, receives and acks events as fast as it can, and reports each step in a line.

`put ID` and `done ID` when the queue has answered, `ending ID` before it is asked to end that event.
Arguments: the settings that lead to the queue, and the test's own, both JSON; and how many it puts at a time.
"""

import asyncio
import json
import os
import sys
import uuid
from typing import Any

from queue_contract import LANE, an_event, make

from kappa_gateway.queue.protocol import Queue


def say(what: str, event_id: str) -> None:
    os.write(1, f"{what} {event_id}\n".encode())


async def put(queue: Queue) -> None:
    while True:
        event = an_event(f"{os.getpid()}-{uuid.uuid4()}", payload=os.urandom(300))
        await queue.enqueue(event)
        say("put", event.id)


async def take(queue: Queue) -> None:
    while True:
        # every second one is never settled
        for lease in (await queue.receive(LANE, 20, 1.0))[::2]:
            say("ending", lease.event.id)
            await queue.ack(lease)
            say("done", lease.event.id)


async def main(options: dict[str, Any], settings: dict[str, Any], putters: int) -> None:
    queue = make(options, settings)
    await queue.open()
    await asyncio.gather(take(queue), *(put(queue) for _ in range(putters)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])))
