"""Lambda's error JSON: what an invocation gets when the runtime process could not answer for itself.

The error types and messages are Lambda's; those that start with `Kappa.` are for what Lambda does not have.
No cold start needs JSON, so it is imported when the first error happens.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

TIMED_OUT: Final = "Sandbox.Timedout"
EXIT_ERROR: Final = "Runtime.ExitError"
INVALID_ENTRYPOINT: Final = "Runtime.InvalidEntrypoint"
RESPONSE_TOO_LARGE: Final = "Function.ResponseSizeTooLarge"
POD_STOPPED: Final = "Kappa.PodStopped"


class StartError(Exception):
    """A runtime process could not even be started."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message

    def body(self) -> dict[str, object]:
        return start_error(self.error_type, self.message)


def start_error(error_type: str, message: str) -> dict[str, object]:
    """An `InitError` as `wire.READY_PATH` shows it."""
    return {"errorType": error_type, "errorMessage": message, "stackTrace": []}


def start_timed_out(seconds: float, *, within_invocation: bool) -> dict[str, object]:
    """A start that took too long."""
    if within_invocation:
        return start_error(TIMED_OUT, f"Task timed out after {seconds:.2f} seconds")
    return start_error(
        TIMED_OUT,
        f"the code did not load within {seconds:.0f} seconds; the next invocation loads it again, within the function's"
        " timeout",
    )


def never_asked(seconds: float) -> dict[str, object]:
    """A container beside the agent that runs, and is no Lambda runtime by all appearances."""
    return start_error(
        TIMED_OUT,
        f"the image runs, but has not asked Lambda's Runtime API for work within {seconds:.0f} seconds: start a Lambda"
        " runtime client in it (such as python -m awslambdaric main.handler), or set code.image.protocol to http if it"
        " is a web server",
    )


def for_invocation(error: dict[str, object], request_id: str, now: float) -> bytes:
    """A failed start as the answer of the invocation that waited for it."""
    import json

    answer = dict(error)
    message = str(error["errorMessage"])
    if error["errorType"] == TIMED_OUT and message.startswith("Task timed out"):
        answer["errorMessage"] = f"{iso_time(now)} {request_id} {message}"
    elif error["errorType"] == EXIT_ERROR:
        answer["errorMessage"] = f"RequestId: {request_id} {message}"
    answer["requestId"] = request_id
    if not answer.get("stackTrace") and error["errorType"] in (TIMED_OUT, EXIT_ERROR, INVALID_ENTRYPOINT):
        answer.pop("stackTrace", None)
        answer.pop("requestId", None)
    return json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace")


def body(error_type: str, message: str) -> bytes:
    import json

    return json.dumps({"errorType": error_type, "errorMessage": message}, ensure_ascii=False).encode(
        errors="backslashreplace"
    )


def timed_out(request_id: str, seconds: float, now: float) -> str:
    """Lambda's message for a timeout; `now` in epoch seconds."""
    return f"{iso_time(now)} {request_id} Task timed out after {seconds:.2f} seconds"


def exited(status: int) -> str:
    """How a process ended, in Lambda's words, from a wait status."""
    import os
    import signal

    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        description = signal.strsignal(number) or f"signal {number}"
        return f"Runtime exited with error: signal: {description.lower()}"
    code = os.WEXITSTATUS(status)
    if code:
        return f"Runtime exited with error: exit status {code}"
    return "Runtime exited without providing a reason"


def exit_message(request_id: str, reason: str) -> str:
    return f"RequestId: {request_id} Error: {reason}" if request_id else f"Error: {reason}"


def too_large(size: int, limit: int) -> str:
    return f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({limit} bytes)."


def init_error(raw: bytes, fallback_type: str) -> dict[str, object]:
    """What a runtime process posted to init/error, read: always an errorType and an errorMessage."""
    import json

    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        parsed = {"errorMessage": raw.decode(errors="replace")}
    return {
        "errorType": str(parsed.get("errorType") or fallback_type or "Runtime.Unknown"),
        "errorMessage": str(parsed.get("errorMessage", "")),
        "stackTrace": parsed.get("stackTrace") or [],
    }


def iso_time(now: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    milliseconds = int(now * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(milliseconds // 1000))}.{milliseconds % 1000:03d}Z"
