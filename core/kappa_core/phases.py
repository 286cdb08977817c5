"""`wire.PHASES`: the phases of a cold start inside the pod, in ms, such as
`verify=0.11,code=0.40,init=2.20,run=0.90`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VERIFY: Final = "verify"
"""From the end of the request until it is verified. Pool pods only."""
CODE: Final = "code"
"""Until the code is in the task root: written, unpacked or fetched. Pool pods only."""
INIT: Final = "init"
"""The start of the runtime process, until it asks for work. Lambda's Init Duration."""
RUN: Final = "run"
"""The invocation in the runtime process. Lambda's Duration."""
NAMES: Final = (VERIFY, CODE, INIT, RUN)


def read(value: str) -> dict[str, float]:
    """Phase → milliseconds. Unknown phases and values that cannot be read are left out."""
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
