"""A SIGTERM of the first moments: for a container's first process it would be lost, and the stop would wait in vain."""

from __future__ import annotations

from kappa_runtime.imports import signal


class EarlyStop:
    """Takes it until the event loop does."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.requested = True
