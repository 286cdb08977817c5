"""Every example runs in local mode, unchanged, and answers what it says."""

import asyncio
import json
from pathlib import Path
from typing import Any

import examples
import pytest
import yaml
from kappa_local import KappaLocal
from waiting import eventually


@pytest.mark.parametrize("folder", examples.folders(), ids=lambda folder: folder.name)
async def test_an_example_answers_what_it_says(folder: Path) -> None:
    local = KappaLocal(folder)
    try:
        await local.start()
        for request in examples.requests(folder):
            answers = await asyncio.gather(
                *(
                    local.request(request.method, request.path, request.body or None, request.headers)
                    for _ in range(request.at_once)
                )
            )
            for answer in answers:
                request.check(answer.status, answer.headers, answer.body)
            if request.is_event:
                ids = {answer.headers["x-amzn-requestid"] for answer in answers}
                await check_what_follows(local, request, ids)
        assert await local.stop() == 0
    finally:
        await local.stop()


async def check_what_follows(local: KappaLocal, request: examples.Request, ids: set[str]) -> None:
    """The events end as the example says; all of these ids are one, by their idempotency key."""
    assert len(ids) == 1
    request.check_outcome(await local.outcome(request.expect["invoke"], ids.pop()))
    then = request.expect["then"]

    def results() -> list[Any]:
        listed = local.request_now("GET", examples.async_path(then["function"])).json["invocations"]
        paths = [f"{examples.async_path(then['function'])}/{one['requestId']}" for one in listed]
        return [local.request_now("GET", path).json["result"] for path in paths]

    await eventually(lambda: results().count(json.loads(then["result"])) == 1, "the next function's result", within=60)


async def test_all_examples_run_together() -> None:
    local = KappaLocal(examples.EXAMPLES)
    try:
        await local.start()
        assert f"serves {len(declared())} functions" in local.output
        for folder in examples.folders():
            request = examples.requests(folder)[0]
            answer = await local.request(request.method, request.path, request.body or None, request.headers)
            request.check(answer.status, answer.headers, answer.body)
    finally:
        await local.stop()


def test_every_example_has_a_page_and_is_in_the_list() -> None:
    listed = (examples.EXAMPLES / "README.md").read_text()
    folders = [path for path in examples.EXAMPLES.iterdir() if path.is_dir()]
    assert len(folders) >= 7
    for folder in folders:
        assert (folder / "README.md").read_text().startswith(f"# {folder.name[:2]}: ")
        assert f"[{folder.name}]({folder.name})" in listed


def test_hello_is_the_function_of_the_readme() -> None:
    manifest = yaml.safe_load((examples.EXAMPLES / "01-hello" / "function.yaml").read_text())
    assert manifest["metadata"] == {"name": "hello"}
    assert manifest["spec"] == {
        "runtime": "python3.13",
        "handler": "main.handler",
        "code": {
            "inline": 'def handler(event, context):\n    return {"hello": event.get("name", "world")}\n',
        },
    }


def declared() -> list[str]:
    """The names of all Functions in the examples; none twice, since they may be applied together."""
    names = [
        document["metadata"]["name"]
        for path in sorted(examples.EXAMPLES.glob("*/*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == "Function"
    ]
    assert len(set(names)) == len(names)
    return names
