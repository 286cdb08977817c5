"""`wire.PHASES`: where a cold start's time went in its pod, `verify=0.11,code=0.40,init=2.20,run=0.90`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VERIFY: Final = "verify"
"""From the whole request in the agent until it was found good. Pool pods alone."""
CODE: Final = "code"
"""The code into the task root: written, unpacked or fetched. Pool pods alone."""
INIT: Final = "init"
"""The runtime process's start: until it asked for work. Lambda's Init Duration."""
RUN: Final = "run"
"""The invocation in the runtime process. Lambda's Duration."""
NAMES: Final = (VERIFY, CODE, INIT, RUN)


def read(value: str) -> dict[str, float]:
    """Milliseconds by phase: those of `NAMES` that are there; what cannot be read is left out."""
    found: dict[str, float] = {}
    for part in value.split(","):
        name, _, number = part.strip().partition("=")
        if name in NAMES:
            try:
                milliseconds = float(number)
            except ValueError:
                continue
            if 0 <= milliseconds < float("inf"):
                found[name] = milliseconds
    return found
