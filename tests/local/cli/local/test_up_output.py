"""What `kappa local up` prints, and what the functions that it runs see."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from kappa_local import HELLO, KappaLocal, manifest_text, returning

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOXED = """
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {name: boxed}
spec: {code: {image: {ref: team/boxed:1}}}
"""
FLOOD = "def handler(event, context):\n    for _ in range(200):\n        print('x' * 100_000)\n    return 'done'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KappaLocal]:
    """One local mode for all tests here."""
    path = tmp_path_factory.mktemp("functions") / "functions.yaml"
    manifests = [
        manifest_text("hello", HELLO),
        manifest_text("talker", 'def handler(event, context):\n    print("one\\ntwo")\n    return 1'),
        manifest_text("there", returning("there")).replace("{name: there}", "{name: there, namespace: team-a}"),
        manifest_text("older", HELLO).replace("python3.13", "python3.8"),
        manifest_text("env", "import os\ndef handler(event, context):\n    return dict(os.environ)"),
        manifest_text("flood", FLOOD, timeout="1m"),
        BOXED,
    ]
    path.write_text("\n---\n".join(manifests))
    local = KappaLocal(path, env={"MY_SECRET": "x", "AWS_ACCESS_KEY_ID": "key", "LC_ALL": "C.UTF-8"})
    yield await local.start()
    await local.stop()


async def test_the_banner_says_where_and_how(local: KappaLocal) -> None:
    assert f"{local.url}/fn/default/hello" in local.output
    assert f'curl {local.url}/2015-03-31/functions/hello/invocations -d \'{{"name": "Ada"}}\'' in local.output
    assert "kappa invoke hello" in local.output


async def test_what_a_function_prints_goes_to_the_terminal_with_its_name(local: KappaLocal) -> None:
    await local.invoke("talker")
    await local.says("talker       | one\ntalker       | two\n")
    await local.says("talker       | REPORT RequestId:")


async def test_functions_of_other_namespaces_are_named_with_them(local: KappaLocal) -> None:
    assert (await local.invoke("team-a.there")).json == "there"
    assert (await local.invoke("there")).status == 404
    await local.says("team-a.there | START")


async def test_an_image_is_refused_with_the_reason(local: KappaLocal) -> None:
    await local.says(
        "boxed cannot run: code.image (team/boxed:1) is a container image, and those run in a cluster only"
    )
    answer = await local.invoke("boxed")
    assert answer.status == 502
    assert "in a cluster only" in answer.body.decode()


async def test_another_python_is_said_once(local: KappaLocal) -> None:
    assert local.output.count("older names Python 3.8 and runs on") == 1
    assert (await local.invoke("older")).status == 200


async def test_what_the_shell_has_is_not_what_a_function_gets(local: KappaLocal) -> None:
    env = (await local.invoke("env")).json
    assert "MY_SECRET" not in env
    assert not [name for name in env if name.startswith("KAPPA_")]
    assert (env["AWS_ACCESS_KEY_ID"], env["LC_ALL"]) == ("key", "C.UTF-8")
    assert env["AWS_LAMBDA_FUNCTION_NAME"] == "env"


async def test_a_flood_of_output_holds_nothing_up(local: KappaLocal) -> None:
    assert (await local.invoke("flood")).json == "done"
    assert (await local.invoke("flood")).json == "done"
