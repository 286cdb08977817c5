"""`kappa local up` as a whole where what Linux alone has is missing, awslambdaric's native module too: as on macOS."""

import json
from pathlib import Path
from typing import Any

import other_system
import pytest
from kappa_local import NO_SPARE, KappaLocal
from processes import alive
from waiting import eventually

CODE = """
import sys
import awslambdaric.lambda_runtime_client as client

def handler(event, context):
    print("asked for", event)
    if event.get("fail"):
        raise ValueError("no such thing")
    return [sys.platform, client.runtime_client.__name__, event]
"""


@pytest.mark.parametrize("options", [(), NO_SPARE], ids=["with a spare process", "without one"])
async def test_invocations_and_a_function_error(manifest: Any, tmp_path: Path, options: tuple[str, ...]) -> None:
    first, second = manifest("first", CODE), manifest("second", CODE)
    folder = tmp_path / "python"
    folder.mkdir()
    python = other_system.python(folder, other_system.PORTABLE, other_system.WITHOUT_NATIVE_CLIENT)
    local = KappaLocal(first, second, options=options, python=python)
    try:
        await local.start()
        if not options:
            await eventually(lambda: len(local.children()) >= 2, "a spare process")
        for name in ("first", "second"):
            answer = await local.invoke(name, {"n": 1})
            assert answer.status == 200, local.output
            assert answer.json == ["darwin", "kappa_runtime.start.http_runtime_client", {"n": 1}], local.output
            failed = await local.invoke(name, {"fail": True})
            assert failed.headers["X-Amz-Function-Error"] == "Unhandled"
            assert failed.json["errorType"] == "ValueError"
            assert failed.json["errorMessage"] == "no such thing"
            url = await local.request("POST", f"/fn/default/{name}", json.dumps({}))
            assert url.status == 200
            assert url.json[:2] == ["darwin", "kappa_runtime.start.http_runtime_client"]
            await local.says(f"{name:6} | asked for {{'fail': True}}")
        children = local.children()
    finally:
        status = await local.stop()
    assert status == 0, local.output
    for line in local.output.splitlines():
        assert "kappa: pool:" not in line, "no prepared process has ended by itself"
    assert alive(children) == set()
