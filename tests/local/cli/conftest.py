"""`kappa local up` over files that a test writes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from kappa_local import KappaLocal

FUNCTION = """
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {{name: {name}}}
spec:
  runtime: python3.13
  handler: main.handler
  timeout: {timeout}
  concurrency: {concurrency}
  scaling: {{keepWarm: {keep_warm}, maxReplicas: {max_replicas}}}
  {spec}
  code:
    inline: |
{code}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes the manifest of a Function with inline code, and returns its path."""

    def write(
        name: str,
        code: str,
        *,
        timeout: str = "10s",
        concurrency: int = 1,
        keep_warm: str = "5m",
        max_replicas: int = 10,
        spec: str = "",
        more: str = "",
    ) -> Path:
        path = tmp_path / f"{name}.yaml"
        indented = "\n".join(f"      {line}" for line in code.strip("\n").splitlines())
        text = FUNCTION.format(
            name=name,
            code=indented,
            timeout=timeout,
            concurrency=concurrency,
            keep_warm=keep_warm,
            max_replicas=max_replicas,
            spec=spec,
        )
        # as editors do it: a new file in the place of the old one
        fresh = tmp_path / f".{name}.new"
        fresh.write_text(text + more)
        fresh.replace(path)
        return path

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
