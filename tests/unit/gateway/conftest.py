"""Unit tests of the gateway run in virtual time: a wait of a minute takes none (`gateway_fakes.VirtualLoop`)."""

import sys
import time

import pytest
from gateway_fakes import Cluster, Edge, Invoking, VirtualLoop, VirtualTime


def pytest_asyncio_loop_factories(config, item):
    return {"virtual": VirtualLoop}


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch):
    monkeypatch.setattr(VirtualTime, "now", 1000.0)
    for name, module in list(sys.modules.items()):
        if name.startswith(("kappa_gateway.transport.", "kappa_gateway.pods.", "kappa_gateway.invoke.")) and (
            getattr(module, "time", None) is time
        ):
            monkeypatch.setattr(module, "time", VirtualTime)


async def _made(kind):
    open_worlds = []

    def make(**how):
        open_worlds.append(kind(**how))
        return open_worlds[-1]

    yield make
    for world in open_worlds:
        await world.close()


@pytest.fixture
async def cluster():
    """Makes a `Cluster`: `cluster(pool=True, scaling=…)`."""
    async for make in _made(Cluster):
        yield make


@pytest.fixture
async def invoking():
    """Makes an `Invoking`, in the same way."""
    async for make in _made(Invoking):
        yield make


@pytest.fixture
async def edge():
    """Makes an `Edge`, in the same way."""
    async for make in _made(Edge):
        yield make
