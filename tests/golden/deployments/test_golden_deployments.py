"""Each Function in `functions/` renders to the Deployment in `rendered/`, letter by letter.

A change here rolls every such function's pods in every installation: read the diff with that in mind.
`UPDATE_GOLDEN=1 pytest tests/golden/deployments` updates them.
"""

import os
from pathlib import Path

import pytest
import yaml

from kappa_core import manifests
from kappa_core.function import Function
from kappa_core.manifests import Platform, RuntimeImage

HERE = Path(__file__).parent
PLATFORM = Platform(
    runtimes={"python3.13": RuntimeImage(image="kappa/runtime-python:1.0.0", pull_policy="IfNotPresent")}
)
INPUTS = sorted((HERE / "functions").glob("*.yaml"))


@pytest.mark.parametrize("source", INPUTS, ids=lambda path: path.stem)
def test_a_function_renders_as_before(source: Path) -> None:
    function = Function.model_validate(yaml.safe_load(source.read_text()))
    code_hash = "0123456789abcdef" * 4 if function.spec.code.config_map else None
    text = yaml.safe_dump(manifests.deployment(function, PLATFORM, code_hash), sort_keys=False, width=120)
    golden = HERE / "rendered" / source.name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert golden.read_text() == text, "UPDATE_GOLDEN=1 updates it"


def test_every_rendered_deployment_has_its_function() -> None:
    assert {path.name for path in (HERE / "rendered").glob("*.yaml")} == {path.name for path in INPUTS}
