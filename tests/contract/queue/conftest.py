"""Each test here runs once for each adapter, against an empty queue of its own: `<adapter>_backend` says where that is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from queue_contract import Backend, Queues, opened

from kappa_gateway.queue.factory import sqlite_url
from kappa_gateway.queue.protocol import Queue

ADAPTERS = ["sqlite"]


@pytest.fixture(params=ADAPTERS)
def backend(request: pytest.FixtureRequest) -> Backend:
    found = request.getfixturevalue(f"{request.param}_backend")
    assert isinstance(found, Backend)
    return found


@pytest.fixture
def sqlite_backend(tmp_path: Path) -> Backend:
    return Backend("sqlite", {"queue_url": sqlite_url(tmp_path / "a folder" / "queue.db")}, shared=False)


@pytest.fixture
async def queues(backend: Backend) -> AsyncIterator[Queues]:
    async with opened(backend) as found:
        yield found


@pytest.fixture
async def queue(queues: Queues) -> Queue:
    return await queues.open()
