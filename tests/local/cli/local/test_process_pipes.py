"""Each number of a file is closed once. What is closed twice may be another's by then: a client's connection, say."""

import subprocess
import sys

SCRIPT = """
import asyncio, os, sys, threading, uvloop
from kappa_cli.local.processes.pipes import read_lines

# On one processor a thread that waits for the interpreter's lock runs where the lock is let go: as in a close.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.setswitchinterval(1e-5)
mine = os.stat(sys.executable).st_ino
stop = threading.Event()
taken, lines = [], []

def files():
    while not stop.is_set():
        fd = os.open(sys.executable, os.O_RDONLY)
        try:
            if os.fstat(fd).st_ino != mine:
                taken.append("its number is another file's")
            os.close(fd)
        except OSError as error:
            taken.append(str(error))

async def read():
    output, child_output = os.pipe()
    os.write(child_output, b"line\\n")
    os.close(child_output)
    await read_lines(output, lines.append)

async def main():
    for _ in range(1500):
        await asyncio.gather(*(read() for _ in range(8)))

threads = [threading.Thread(target=files, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
uvloop.run(main())
stop.set()
print(len(lines), len(taken), *taken[:3])
"""


def test_no_file_that_another_thread_opens_is_closed_with_a_process_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout == "12000 0\n", done.stdout + done.stderr[-2000:]
