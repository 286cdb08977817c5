"""Receivers on loopback, and deliverers to try them with."""

import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from http_receiver import Answer, Receiver, receiver

from kappa_gateway.events.destinations.deliverer import Deliverer
from kappa_gateway.settings import Settings

Receive = Callable[..., Awaitable[Receiver]]


@pytest.fixture
async def receive() -> AsyncIterator[Receive]:
    """`await receive(answer, …)`: a receiver."""
    async with AsyncExitStack() as stack:

        async def start(
            *answers: bytes | Answer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
        ) -> Receiver:
            return await stack.enter_async_context(receiver(list(answers), tls, host))

        yield start


Make = Callable[..., Deliverer]


@pytest.fixture
async def deliverer() -> AsyncIterator[Make]:
    """`deliverer(publisher, setting=…)`: one that may deliver to loopback, closed after the test."""
    async with AsyncExitStack() as stack:
        made: list[Deliverer] = []

        def make(publisher: Any = None, **settings: Any) -> Deliverer:
            settings = {"delivery_addresses": "any", "delivery_timeout": 10.0, "signing_key": "the-key"} | settings
            made.append(Deliverer(Settings(**settings), publisher))
            stack.push_async_callback(made[-1].close)
            return made[-1]

        yield make


@pytest.fixture(scope="session")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1 that no authority has signed."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=receiver", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key
