"""The pool of local mode: a spare process that the next cold start takes over, and all that can become of it."""

import os
import re
import signal
from typing import Any

from processes import alive
from waiting import eventually

PID = "import os\ndef handler(event, context):\n    print('in', os.getpid())\n    return os.getpid()"


async def free(local: Any) -> None:
    """Returns once the pool has its spare process."""

    def is_there() -> bool:
        page = local.request_now("GET", "/metrics").body.decode()
        return any(float(value) for value in re.findall(r'^kappa_pool_pods{.*state="free"} (.*)$', page, re.M))

    await eventually(is_there, "a spare process")


async def went(local: Any, function: str) -> tuple[str, Any]:
    answer = await local.invoke(function)
    assert answer.status == 200, answer.body
    return (answer.headers.get("Kappa-Cold-Start") or "").split(";")[0], answer.json


async def test_a_cold_start_takes_the_spare_process_and_another_one_follows(manifest: Any, kappa: Any) -> None:
    manifest("one", PID)
    manifest("two", PID)
    local = await kappa()
    await free(local)
    way, first = await went(local, "one")
    assert way == "pool"
    assert await went(local, "one") == ("", first)
    await local.says(f"one   | in {first}")
    await free(local)
    way, second = await went(local, "two")
    assert way == "pool"
    assert second != first
    await local.says(f"two   | in {second}")


async def test_a_process_from_the_pool_scales_to_zero_as_any_other(manifest: Any, kappa: Any) -> None:
    manifest("hello", PID, keep_warm="500ms")
    local = await kappa()
    await free(local)
    way, pid = await went(local, "hello")
    assert way == "pool"
    await eventually(lambda: not alive({pid}), "its end")
    await free(local)
    assert (await went(local, "hello"))[0] == "pool"


async def test_a_change_replaces_a_process_from_the_pool(manifest: Any, kappa: Any) -> None:
    manifest("hello", PID)
    local = await kappa()
    await free(local)
    way, pid = await went(local, "hello")
    assert way == "pool"
    manifest("hello", "def handler(event, context):\n    return 'new'")
    await local.says("hello: changed")
    await eventually(lambda: not alive({pid}), "the old process's end")
    assert (await local.invoke("hello")).json == "new"


async def test_what_the_pool_cannot_give_starts_as_ever(manifest: Any, kappa: Any) -> None:
    manifest("hello", PID)
    manifest("apart", PID, spec="podTemplate: {annotations: {a: b}}")
    local = await kappa()
    await free(local)
    assert (await went(local, "apart"))[0] == "deployment"
    await free(local)


async def test_a_spare_process_that_is_killed_costs_no_request(manifest: Any, kappa: Any) -> None:
    manifest("hello", PID)
    local = await kappa()
    await free(local)
    for child in local.children():
        os.kill(child, signal.SIGKILL)
    await local.says("another one will replace it")
    assert (await went(local, "hello"))[0] == "deployment"


async def test_without_spare_processes_there_are_none(manifest: Any, kappa: Any) -> None:
    manifest("hello", PID)
    local = await kappa(options=("--spare", "0"))
    assert (await went(local, "hello"))[0] == "deployment"
    page = (await local.request("GET", "/metrics")).body.decode()
    assert "kappa_pool_pods{" not in page
    assert 'reason="not_eligible"' in page


async def test_variables_are_the_functions_own_and_the_shells_stay_out(manifest: Any, kappa: Any) -> None:
    spec = "env: [{name: A, value: x}, {name: B, value: $(A)y$$}]"
    manifest("env", "import os\ndef handler(event, context):\n    return dict(os.environ)", spec=spec)
    local = await kappa(env={"MY_SECRET": "x", "AWS_ACCESS_KEY_ID": "key"})
    await free(local)
    way, env = await went(local, "env")
    assert way == "pool"
    assert "MY_SECRET" not in env
    assert not [name for name in env if name.startswith("KAPPA_")]
    assert (env["A"], env["B"], env["AWS_ACCESS_KEY_ID"]) == ("x", "xy$", "key")


async def test_an_event_starts_from_the_pool_too(manifest: Any, kappa: Any) -> None:
    manifest("hello", PID)
    local = await kappa()
    await free(local)
    accepted = await local.invoke("hello", {}, {"X-Amz-Invocation-Type": "Event"})
    assert accepted.status == 202
    await local.says("hello | in ")

    def counted() -> bool:
        page = local.request_now("GET", "/metrics").body.decode()
        return bool(
            re.search(r'^kappa_cold_starts_total{function="hello".*path="Pool",reason="claimed"} 1.0$', page, re.M)
        )

    await eventually(counted, "its cold start")
    assert local.output.count("hello | START") == 1
