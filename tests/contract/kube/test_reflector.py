"""List and watch against an API server that does what real ones do on bad days."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from kappa_core import names
from kappa_kube.connection import Connection
from kappa_kube.errors import NoCluster

Make = Callable[..., dict[str, Any]]


async def test_an_event_that_changes_nothing_is_not_passed_on(api_server: Any, follow: Any, make_pod: Make) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    await watch.send("ADDED", api_server.put(make_pod("a", ip="10.0.0.1")))
    for _ in range(3):
        await watch.send("MODIFIED", api_server.put(make_pod("a", ip="10.0.0.1", reason="unread")))
    await watch.send("ADDED", api_server.put(make_pod("b")))
    await followed.sink.until(lambda s: ("default", "b") in s.pods, "the pod after it")
    assert followed.sink.calls == 2


async def test_a_long_list_comes_in_pages(api_server: Any, follow: Any, make_pod: Make) -> None:
    for number in range(600):
        api_server.put(make_pod(f"p{number}"))
    followed = follow()
    await followed.synced()
    assert len(followed.sink.pods) == 600
    pages = [query for resource, _, query in api_server.lists if resource == "pods"]
    assert len(pages) == 3
    assert all(page["labelSelector"] == names.LABEL_FUNCTION for page in pages)


async def test_a_list_whose_snapshot_expires_between_pages_begins_again(
    api_server: Any, follow: Any, make_pod: Make
) -> None:
    for number in range(300):
        api_server.put(make_pod(f"p{number}"))
    failed = []

    def expire_once(resource: str, query: dict[str, str]) -> Any:
        if resource == "pods" and query.get("continue") and not failed:
            failed.append(query)
            return 410, {"message": "the provided continue parameter is too old"}, {}
        return None

    api_server.fail = expire_once
    followed = follow()
    await followed.synced()
    assert failed
    assert len(followed.sink.pods) == 300


@pytest.mark.parametrize("how", ["event", "status"])
async def test_410_makes_a_new_list_and_what_was_deleted_meanwhile_is_gone(
    api_server: Any, follow: Any, make_pod: Make, how: str
) -> None:
    api_server.put(make_pod("a"))
    api_server.put(make_pod("b"))
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    api_server.delete(make_pod("a"))
    api_server.put(make_pod("c"))
    if how == "event":
        await watch.send("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    else:
        api_server.fail = lambda r, q: (410, {"message": "too old"}, {}) if q.get("watch") and r == "pods" else None
        watch.cut()
    await followed.sink.until(lambda s: set(s.pods) == {("default", "b"), ("default", "c")}, "the new list")
    api_server.fail = lambda r, q: None
    watch.end()
    again = await api_server.watch("pods", after=watch)
    await again.send("ADDED", api_server.put(make_pod("d")))
    await followed.sink.until(lambda s: ("default", "d") in s.pods, "the first event after it")


async def test_a_cut_connection_continues_from_the_last_event(api_server: Any, follow: Any, make_pod: Make) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    await watch.send("ADDED", api_server.put(make_pod("a")))
    await followed.sink.until(lambda s: s.pods, "the pod")
    lists = len(api_server.lists)
    watch.cut()
    again = await api_server.watch("pods", after=watch)
    assert again.query["resourceVersion"] == str(api_server.version)
    assert len(api_server.lists) == lists, "a cut connection needs no new list"
    await again.send("DELETED", api_server.delete(make_pod("a")))
    await followed.sink.until(lambda s: not s.pods, "the delete that happened meanwhile")


async def test_a_bookmark_moves_the_resource_version_to_continue_from(api_server: Any, follow: Any) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    await watch.send("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "4711"}})
    watch.end()
    again = await api_server.watch("pods", after=watch)
    assert again.query["resourceVersion"] == "4711"


async def test_half_a_line_is_not_applied(api_server: Any, follow: Any, make_pod: Make) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    raw = api_server.put(make_pod("a"))
    line = json.dumps({"type": "ADDED", "object": raw}).encode()
    await watch.write(line[: len(line) // 2])
    watch.end()
    again = await api_server.watch("pods", after=watch)
    assert int(again.query["resourceVersion"]) < int(raw["metadata"]["resourceVersion"])
    await again.send("ADDED", raw)
    await followed.sink.until(lambda s: s.pods, "the pod, sent again")


@pytest.mark.parametrize("garbage", [b"<html>502</html>\n", b"[1, 2]\n", b'{"type": "ADDED"}\n', b"\xff\xfe\n"])
async def test_garbage_in_a_watch_is_survived(api_server: Any, follow: Any, make_pod: Make, garbage: bytes) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    await watch.write(garbage)
    again = await api_server.watch("pods", after=watch)
    await again.send("ADDED", api_server.put(make_pod("a")))
    await followed.sink.until(lambda s: s.pods, "the event after it")
    assert not followed.task.done()


async def test_an_event_split_over_packets_is_one_event(api_server: Any, follow: Any, make_pod: Make) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    line = json.dumps({"type": "ADDED", "object": api_server.put(make_pod("a"))}).encode() + b"\n"
    for part in (line[:10], line[10:50], line[50:]):
        await watch.write(part)
        await asyncio.sleep(0.01)
    await followed.sink.until(lambda s: s.pods, "the pod")


async def test_a_watch_that_falls_silent_is_made_again(api_server: Any, follow: Any, make_pod: Make) -> None:
    followed = follow(silence=0.3)
    await followed.synced()
    watch = await api_server.watch("pods")
    again = await eventually(
        lambda: next((w for w in api_server.watches if w.resource == "pods" and w is not watch), None), "another watch"
    )
    await again.send("ADDED", api_server.put(make_pod("a")))
    await followed.sink.until(lambda s: s.pods, "an event on the new watch")


async def test_a_refused_token_is_read_again(api_server: Any, follow: Any, kubeconfig: Any, make_pod: Make) -> None:
    followed = follow()
    await followed.synced()
    kubeconfig(api_server.url, "second")
    api_server.fail = lambda r, q: None if api_server.tokens[-1].endswith("second") else (401, {"message": "no"}, {})
    (await api_server.watch("pods")).cut()
    await eventually(lambda: api_server.tokens[-1].endswith("second"), "a request with the new token")
    raw = api_server.put(make_pod("a"))
    watch = await api_server.watch("pods")
    await watch.send("ADDED", raw)
    await followed.sink.until(lambda s: s.pods, "an event after that")


async def test_a_watch_that_always_fails_ends_in_a_new_list(api_server: Any, follow: Any, make_pod: Make) -> None:
    """A server restored from a backup does not know our resourceVersion, and answers 500 for ever."""
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    lists = len(api_server.lists)
    api_server.put(make_pod("a"))
    api_server.fail = lambda r, q: (
        (500, {"message": "too large resource version"}, {})
        if q.get("watch") and r == "pods" and len(api_server.lists) == lists
        else None
    )
    watch.cut()
    await followed.sink.until(lambda s: s.pods, "the pod, by a new list")


async def test_a_server_that_is_down_is_waited_for(
    api_server: Any, follow: Any, make_pod: Make, caplog: pytest.LogCaptureFixture
) -> None:
    await api_server.stop()
    followed = follow()
    with caplog.at_level(logging.WARNING):
        await eventually(lambda: any("cannot follow" in r.message for r in caplog.records), "the warning")
    assert followed.sink.replaced == {"functions": 0, "pods": 0}
    api_server.put(make_pod("a"))
    await api_server.start()
    await followed.synced()
    assert set(followed.sink.pods) == {("default", "a")}


async def test_a_server_that_goes_away_takes_nothing_with_it(api_server: Any, follow: Any, make_pod: Make) -> None:
    api_server.put(make_pod("a"))
    followed = follow()
    await followed.synced()
    await api_server.watch("pods")
    await api_server.stop()
    api_server.delete(make_pod("a"))
    api_server.put(make_pod("b"))
    assert set(followed.sink.pods) == {("default", "a")}
    await api_server.start()
    # one that came back with its memory would send events; this one was restored: its watches know nothing
    api_server.fail = lambda r, q: (410, {"message": "too old"}, {}) if q.get("watch") else None
    await followed.sink.until(lambda s: set(s.pods) == {("default", "b")}, "what changed meanwhile")


async def test_a_broken_kubeconfig_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text("apiVersion: v1\nclusters: [")
    with pytest.raises(NoCluster, match=str(broken)):
        async with Connection("kappa-test", kubeconfig=str(broken)):
            pass


async def test_a_kubeconfig_that_breaks_later_is_waited_for(api_server: Any, follow: Any, kubeconfig: Any) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    followed.kubeconfig.write_text("{")
    api_server.fail = lambda r, q: None if api_server.tokens[-1].endswith("second") else (401, {"message": "no"}, {})
    watch.cut()
    await eventually(lambda: not api_server.watching("pods"), "the refusal")
    kubeconfig(api_server.url, "second")
    await api_server.watch("pods", after=watch)
    assert not followed.task.done()


async def test_cancelling_leaves_no_connection_open(api_server: Any, follow: Any) -> None:
    followed = follow()
    await followed.synced()
    watches = [await api_server.watch("pods"), await api_server.watch("functions")]
    followed.task.cancel()
    await asyncio.gather(followed.task, return_exceptions=True)
    for watch in watches:
        async with asyncio.timeout(5):
            await watch.ended.wait()
