"""What /proc says about processes (Linux; elsewhere nothing is known)."""

import os


def peak_memory_mib(pid: int) -> int:
    """The most physical memory a process has held (VmHWM), in MiB rounded up; 0 where it is not known."""
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(fd, 4096)
    except OSError:
        return 0
    finally:
        os.close(fd)
    _, found, rest = text.partition(b"VmHWM:")
    if not found:
        return 0
    return -(-int(rest.split(None, 1)[0]) // 1024)


def owner(pid: int) -> int:
    """The uid a process runs as; -1 when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def environment(pid: int) -> bytes | None:
    """The variables a process was started with, NUL between them; None when they cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read(1024 * 1024)
    except OSError:
        return None


def pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
