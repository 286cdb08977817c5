"""Why a delivery was not taken."""


class DeliveryFailed(Exception):
    """The message says what was tried, what happened and, where somebody must act, how to fix it."""

    def __init__(self, message: str, *, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable
        """False: no repetition of this very message will be taken."""
        self.retry_after = retry_after
        """Seconds that the receiver asked for, 0 to `http.LONGEST_RETRY_AFTER`: wait no less than that."""

    def error(self) -> dict[str, str]:
        """As an event's `error`."""
        return {"errorType": "Kappa.DeliveryFailed", "errorMessage": self.message}
