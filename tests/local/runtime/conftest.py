"""Fixtures over real agents, see `agents` in tests/support."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agents, alive, children, until


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    running = Agents(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def children_of() -> Callable[[int], list[int]]:
    return children
