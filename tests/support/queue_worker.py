"""A process to be killed: enqueues, receives and acknowledges events as fast as it can, and prints that line by line.

`enqueued ID` and `acked ID` when the queue has confirmed it, `acking ID` before it is asked to.
Arguments: the settings that lead to the queue, and the test's own, both JSON; and how many it enqueues at a time.
"""

import asyncio
import json
import os
import sys
import uuid
from typing import Any

from queue_contract import LANE, an_event, make

from kappa_gateway.queue.protocol import Queue


def report(what: str, event_id: str) -> None:
    os.write(1, f"{what} {event_id}\n".encode())


async def enqueue(queue: Queue) -> None:
    while True:
        event = an_event(f"{os.getpid()}-{uuid.uuid4()}", payload=os.urandom(300))
        await queue.enqueue(event)
        report("enqueued", event.id)


async def receive(queue: Queue) -> None:
    while True:
        # every second one stays leased
        for lease in (await queue.receive(LANE, 20, 1.0))[::2]:
            report("acking", lease.event.id)
            await queue.ack(lease)
            report("acked", lease.event.id)


async def main(options: dict[str, Any], settings: dict[str, Any], writers: int) -> None:
    queue = make(options, settings)
    await queue.open()
    await asyncio.gather(receive(queue), *(enqueue(queue) for _ in range(writers)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])))
