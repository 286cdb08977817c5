"""A clock that moves when told, for the lease and the work queue."""

import pytest
from fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
