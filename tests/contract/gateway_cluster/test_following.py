"""The Kubernetes backend against an API server that does what real ones do on bad days."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from kappa_core import names
from kappa_gateway.cluster import KubernetesBackend
from kappa_kube.errors import NoCluster

Make = Callable[..., dict[str, Any]]


async def test_what_is_there_at_the_start_comes_as_one_list(
    api_server: Any, follow: Any, make_function: Make, make_pod: Make
) -> None:
    api_server.put(make_function("hello"))
    api_server.put(make_pod("a", ip="10.0.0.1"))
    followed = follow()
    await followed.synced()
    assert set(followed.sink.functions) == {("default", "hello")}
    assert followed.sink.pods[("default", "a")].host == "10.0.0.1"
    assert followed.sink.calls == 0


async def test_pods_are_asked_for_by_label_and_watched_with_bookmarks(api_server: Any, follow: Any) -> None:
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("pods")
    assert watch.query["labelSelector"] == names.LABEL_FUNCTION
    assert watch.query["allowWatchBookmarks"] == "true"
    assert int(watch.query["timeoutSeconds"]) > 0
    assert watch.query["resourceVersion"] == str(api_server.version)


async def test_changes_come_as_they_happen(api_server: Any, follow: Any, make_function: Make, make_pod: Make) -> None:
    followed = follow()
    await followed.synced()
    pods, functions = await api_server.watch("pods"), await api_server.watch("functions")
    await pods.send("ADDED", api_server.put(make_pod("a")))
    await followed.sink.until(lambda s: s.pods, "the new pod")
    assert followed.sink.pods[("default", "a")].host is None
    await pods.send("MODIFIED", api_server.put(make_pod("a", ip="10.0.0.7")))
    await followed.sink.until(lambda s: s.pods[("default", "a")].host == "10.0.0.7", "its address")
    await pods.send("DELETED", api_server.delete(make_pod("a")))
    await followed.sink.until(lambda s: not s.pods, "its end")
    await functions.send("ADDED", api_server.put(make_function("hello", timeout="3s")))
    await followed.sink.until(lambda s: s.functions, "the new function")
    await functions.send("DELETED", api_server.delete(make_function("hello")))
    await followed.sink.until(lambda s: not s.functions, "the function's end")


async def test_a_pod_whose_containers_ended_is_gone(api_server: Any, follow: Any, make_pod: Make) -> None:
    api_server.put(make_pod("old", ip="10.0.0.2", phase="Failed"))
    followed = follow()
    await followed.synced()
    assert followed.sink.pods == {}
    watch = await api_server.watch("pods")
    await watch.send("ADDED", api_server.put(make_pod("a", ip="10.0.0.1")))
    await followed.sink.until(lambda s: s.pods, "the pod")
    await watch.send("MODIFIED", api_server.put(make_pod("a", ip="10.0.0.1", phase="Failed")))
    await followed.sink.until(lambda s: not s.pods, "the evicted pod's end")


async def test_a_function_that_cannot_be_read_stops_nothing(
    api_server: Any, follow: Any, make_function: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad = make_function("bad", timeout=["never"])
    api_server.put(bad)
    with caplog.at_level(logging.WARNING):
        followed = follow()
        await followed.synced()
        assert followed.sink.functions == {}
        watch = await api_server.watch("functions")
        await watch.send("MODIFIED", api_server.put(bad))
        await watch.send("ADDED", api_server.put(make_function("good")))
        await followed.sink.until(lambda s: s.functions, "the sound function")
    logged = [record for record in caplog.records if "cannot read" in record.message]
    assert len(logged) == 1, "said once, not at every event"
    assert "spec.timeout" in logged[0].message


async def test_a_function_that_becomes_unreadable_stays_as_it_was(
    api_server: Any, follow: Any, make_function: Make
) -> None:
    api_server.put(make_function("hello", timeout="7s"))
    followed = follow()
    await followed.synced()
    watch = await api_server.watch("functions")
    await watch.send("MODIFIED", api_server.put(make_function("hello", timeout={"a": 1})))
    await watch.send("ADDED", api_server.put(make_function("next")))
    await followed.sink.until(lambda s: ("default", "next") in s.functions, "the event after it")
    assert followed.sink.functions[("default", "hello")].spec.timeout == "7s"


async def test_a_field_of_a_newer_crd_is_ignored(api_server: Any, follow: Any, make_function: Make) -> None:
    api_server.put(make_function("hello", fromTheFuture={"a": 1}))
    followed = follow()
    await followed.synced()
    assert ("default", "hello") in followed.sink.functions


async def test_namespaces_are_watched_separately_and_listed_together(
    api_server: Any, follow: Any, make_function: Make, make_pod: Make
) -> None:
    for namespace in ("a", "b", "other"):
        api_server.put(make_function("hello", namespace))
        api_server.put(make_pod("p", namespace))
    followed = follow("a", "b")
    await followed.synced()
    assert set(followed.sink.functions) == {("a", "hello"), ("b", "hello")}
    assert set(followed.sink.pods) == {("a", "p"), ("b", "p")}
    assert followed.sink.replaced == {"functions": 1, "pods": 1}, "one list, when the last namespace is known"
    await eventually(lambda: len(api_server.watching("pods")) == 2, "a watch of each namespace")
    of_a = next(watch for watch in api_server.watching("pods") if watch.scope == "a")
    api_server.delete(make_pod("p", "a"))
    await of_a.send("ERROR", {"code": 410, "message": "too old"})
    await followed.sink.until(lambda s: set(s.pods) == {("b", "p")}, "the new list of one namespace")


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
async def test_refusals_are_retried_and_logged_once_with_what_to_do(
    api_server: Any, follow: Any, make_function: Make, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    refused = []

    def refuse(resource: str, query: dict[str, str]) -> Any:
        if resource == "functions" and len(refused) < 4:
            refused.append(query)
            return status, {"kind": "Status", "message": "not now"}, {}
        return None

    api_server.fail = refuse
    api_server.put(make_function("hello"))
    with caplog.at_level(logging.INFO):
        followed = follow()
        await followed.synced()
    assert set(followed.sink.functions) == {("default", "hello")}
    logged = [record.message for record in caplog.records if "cannot follow" in record.message]
    assert len(logged) == 1
    assert f"{status}: not now" in logged[0]
    if status == 403:
        assert "ClusterRole" in logged[0]
    if status == 404:
        assert "CustomResourceDefinition" in logged[0]
    assert any("again" in record.message for record in caplog.records if record.levelno == logging.INFO)


async def test_no_configuration_at_all_is_an_error_that_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_sink: Any
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NoCluster, match="KUBECONFIG is not set"):
        await KubernetesBackend().run(memory_sink)
