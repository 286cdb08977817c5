"""A pool's Deployment, letter by letter: a change here rolls the warm pods of every installation.

`UPDATE_GOLDEN=1 pytest tests/golden/pools` updates it.
"""

import os
from pathlib import Path

import pytest
import yaml

from kappa_core.manifests import Platform, RuntimeImage
from kappa_core.pool import PoolSettings
from kappa_core.pool_manifest import pool_deployment

HERE = Path(__file__).parent
PLATFORM = Platform(
    runtimes={"python3.13": RuntimeImage(image="kappa/runtime-python:1.0.0", pull_policy="IfNotPresent")}
)
SETTINGS = {
    "plain": PoolSettings(size=2, public_key="MCowBQYDK2VwAyEA"),
    "second-operator": PoolSettings(
        size=1, public_key="MCowBQYDK2VwAyEA", preload=("boto3", "json"), memory_limit="1Gi", operator="canary"
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pool_renders_as_before(name: str) -> None:
    manifest = pool_deployment("default", "python3.13", 2, PLATFORM, SETTINGS[name])
    text = yaml.safe_dump(manifest, sort_keys=False, width=120)
    golden = HERE / "rendered" / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.read_text() == text, "UPDATE_GOLDEN=1 updates it"
