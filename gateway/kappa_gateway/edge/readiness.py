"""Whether requests should be sent to this gateway."""

from kappa_gateway.pods.functions import Functions


class GatewayReadiness:
    """Written by `main`, which says when the gateway stops."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._is_stopping = False

    def stop(self) -> None:
        """From now on `/readyz` answers 503."""
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    @property
    def is_ready(self) -> bool:
        return self._functions.synced.is_set() and not self._is_stopping

    @property
    def status(self) -> str:
        """`ok`, `not synced` or `stopping`."""
        if self._is_stopping:
            return "stopping"
        return "ok" if self._functions.synced.is_set() else "not synced"

    @property
    def functions(self) -> int:
        """How many are known."""
        return sum(function.manifest is not None for function in self._functions)
