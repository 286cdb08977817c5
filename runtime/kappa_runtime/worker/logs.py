"""Lambda's log lines and the tail of an invocation's log. Pure."""

from __future__ import annotations

from kappa_core import wire

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

TIMEOUT: Final = "timeout"
ERROR: Final = "error"


def start_line(request_id: str) -> bytes:
    return f"START RequestId: {request_id} Version: $LATEST\n".encode()


def end_lines(
    request_id: str,
    *,
    duration_ms: float,
    memory_mib: int,
    max_memory_mib: int,
    init_ms: float | None,
    status: str = "",
    error_type: str = "",
) -> bytes:
    """The END and REPORT lines. `status` and `error_type` are set only for an invocation that the platform ended."""
    init = "" if init_ms is None else f"Init Duration: {init_ms:.2f} ms\t"
    failure = (f"Status: {status}\t" if status else "") + (f"Error Type: {error_type}\t" if error_type else "")
    return (
        f"END RequestId: {request_id}\n"
        f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\t"
        f"Billed Duration: {-int(-duration_ms // 1)} ms\t"
        f"Memory Size: {memory_mib} MB\tMax Memory Used: {max_memory_mib} MB\t{init}{failure}\n"
    ).encode()


def init_report_line(init_ms: float, *, status: str, error_type: str) -> bytes:
    """What Lambda prints when a runtime process does not start."""
    failure = f"Status: {status}\tError Type: {error_type}\t"
    return f"INIT_REPORT Init Duration: {init_ms:.2f} ms\tPhase: init\t{failure}\n".encode()


class LogTail:
    """The last bytes of a log, in memory bounded by them."""

    __slots__ = ("_kept", "_limit")

    def __init__(self, limit: int = wire.LOG_TAIL_BYTES) -> None:
        self._limit = limit
        self._kept = b""

    def add(self, data: bytes) -> None:
        limit = self._limit
        self._kept = data[-limit:] if len(data) >= limit else (self._kept + data)[-limit:]

    def base64(self) -> bytes:
        """As `X-Amz-Log-Result` has it; a character of several bytes that was cut at the front is left out."""
        import binascii  # a start has no use for it

        kept = self._kept
        if len(kept) == self._limit:
            cut = 0
            while cut < 3 and kept[cut] & 0xC0 == 0x80:
                cut += 1
            kept = kept[cut:]
        return binascii.b2a_base64(kept, newline=False)
