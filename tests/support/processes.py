"""The processes of this machine, on Linux and macOS."""

import subprocess
from collections.abc import Collection
from pathlib import Path

PROC = Path("/proc/self/stat")


def parents() -> dict[int, int]:
    """Process → its parent, without zombies."""
    rows = _from_proc() if PROC.exists() else _from_ps()
    return {pid: parent for pid, parent, state in rows if not state.startswith("Z")}


def descendants(pid: int) -> set[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found.update(below)
        queue.extend(below)
    return found


def alive(pids: Collection[int]) -> set[int]:
    """Those that still run (a zombie does not)."""
    return set(pids) & parents().keys()


def _from_proc() -> list[tuple[int, int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            found.append((int(entry.name), int(parent), state))
    return found


def _from_ps() -> list[tuple[int, int, str]]:
    output = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in output.splitlines())
    return [(int(pid), int(parent), state) for pid, parent, state in rows]
