"""Many invocations of every bad kind at once: each gets its own answer, and every slot is free in the end."""

import random
import threading
from collections import Counter

EXPECTED = {
    "ok": None,
    "raise": "ValueError",
    "exit": "Runtime.ExitError",
    "kill": "Runtime.ExitError",
    "hang": "Sandbox.Timedout",
    "after": None,
    "print": None,
}


def test_everything_at_once(agents):
    agent = agents.start(
        """
        import os, signal, threading, time
        def handler(event, context):
            kind, number = event
            if kind == "raise":
                raise ValueError(number)
            if kind == "exit":
                os._exit(3)
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hang":
                time.sleep(60)
            if kind == "after":
                # gone soon after its answer
                threading.Timer(0.002, os._exit, (1,)).start()
            if kind == "print":
                print("x" * 300_000)
            return number
        """,
        concurrency=4,
        timeout=1.0,
    )
    agent.invoke(["ok", 0])
    seen, wrong = Counter(), []

    def call(seed):
        chosen = random.Random(seed)
        for number in range(12):
            kind = chosen.choice(list(EXPECTED))
            reply = agent.invoke([kind, number])
            if reply.status == 429:
                seen["busy"] += 1
                continue
            seen[kind] += 1
            error = reply.json["errorType"] if reply.error else None
            if error == EXPECTED[kind] and (error or reply.json == number):
                continue
            # a process that ends between its answer and the next request may take that next one with it
            if error == "Runtime.ExitError":
                seen["taken along"] += 1
                continue
            wrong.append((kind, number, reply.body))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    assert sum(seen.values()) >= 60
    results = []
    callers = [threading.Thread(target=lambda: results.append(agent.invoke(["ok", 7]))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [reply.status for reply in results] == [200] * 4
    assert agent.stop() == 0
    assert not agent.runtimes()
