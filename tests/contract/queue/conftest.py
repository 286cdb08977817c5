"""Each test here runs once for each adapter, against an empty queue of its own (`<adapter>_backend`)."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_server import NatsServer
from queue_contract import Backend, Clock, Queues, opened

from kappa_gateway.queue.factory import sqlite_url
from kappa_gateway.queue.protocol import Queue

ADAPTERS = ["sqlite", "jetstream"]


@pytest.fixture(params=ADAPTERS)
def backend(request: pytest.FixtureRequest) -> Backend:
    found = request.getfixturevalue(f"{request.param}_backend")
    assert isinstance(found, Backend)
    return found


@pytest.fixture
def sqlite_backend(tmp_path: Path) -> Backend:
    return Backend("sqlite", {"queue_url": sqlite_url(tmp_path / "a folder" / "queue.db")}, shared=False, clock=Clock())


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One for all: each test has its own streams. Tests that kill one start their own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def jetstream_backend(nats_server: NatsServer) -> Backend:
    options = {"queue_url": nats_server.url, "queue_prefix": f"t{uuid.uuid4().hex[:12]}"}
    return Backend("jetstream", options, shared=True)


@pytest.fixture
async def queues(backend: Backend) -> AsyncIterator[Queues]:
    async with opened(backend) as found:
        yield found


@pytest.fixture
async def queue(queues: Queues) -> Queue:
    return await queues.open()
