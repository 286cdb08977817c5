"""For every test."""

import signal

from hypothesis import settings

# A machine that is busy for a moment is no failure of an example.
settings.register_profile("kappa", deadline=None)
settings.load_profile("kappa")


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does: fixtures stop the processes that they have started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
