"""`kappa local up` over files that a test writes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kappa_local import KappaLocal, manifest_text


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes the manifest of a Function with inline code, and returns its path; arguments as for `manifest_text`."""

    def write(name: str, code: str, **fields: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        # as editors do it: a new file replaces the old one
        fresh = tmp_path / f".{name}.new"
        fresh.write_text(manifest_text(name, code, **fields))
        return fresh.replace(path)

    return write


@pytest.fixture
async def kappa(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[KappaLocal]]]:
    """Starts `kappa local up` over the test's folder (or the given paths)."""
    started: list[KappaLocal] = []

    async def start(*paths: Path, options: tuple[str, ...] = (), env: dict[str, str] | None = None) -> KappaLocal:
        local = KappaLocal(*(paths or (tmp_path,)), options=options, env=env)
        started.append(local)
        return await local.start()

    yield start
    for local in started:
        await local.stop()
