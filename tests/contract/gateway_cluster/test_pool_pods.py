"""Pool pods and the other gateways, as the API server sends them."""

from collections.abc import Callable
from typing import Any

from waiting import eventually

from kappa_core import names
from kappa_gateway.pods.platform import PoolPod

Make = Callable[..., dict[str, Any]]
RUNTIME = "python3.13"


def in_pool(raw: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    raw["metadata"] |= {"uid": f"uid-{raw['metadata']['name']}", "labels": {names.LABEL_POOL: RUNTIME}, **metadata}
    return raw


async def test_pool_pods_come_by_the_watch_that_brings_functions_pods(
    api_server: Any, follow: Any, make_pod: Make
) -> None:
    api_server.put(in_pool(make_pod("spare", ip="10.0.0.1")))
    api_server.put(make_pod("own", ip="10.0.0.2"))
    followed = follow(pools=True)
    await followed.synced()
    assert set(followed.sink.pods) == {("default", "own")}
    spare = followed.sink.pool_pods["default", "spare"]
    assert (spare.runtime, spare.uid, spare.host, spare.port) == (RUNTIME, "uid-spare", "10.0.0.1", names.AGENT_PORT)
    watch = await api_server.watch("pods")
    assert watch.query["labelSelector"] == "app.kubernetes.io/managed-by=kappa"
    assert len(api_server.watching("pods")) == 1


async def test_a_pool_pod_that_its_pool_is_about_to_delete_is_marked(
    api_server: Any, follow: Any, make_pod: Make
) -> None:
    for name, cost in [("goes", "-1"), ("stays", "1")]:
        annotations = {names.ANNOTATION_DELETION_COST: cost}
        api_server.put(in_pool(make_pod(name, ip="10.0.0.1"), annotations=annotations))
    followed = follow(pools=True)
    await followed.synced()
    assert {name: pod.leaving for (_, name), pod in followed.sink.pool_pods.items()} == {"goes": True, "stays": False}


async def test_a_pod_that_a_function_claims_is_the_functions_before_it_leaves_the_pool(
    api_server: Any, follow: Any, make_pod: Make
) -> None:
    api_server.put(in_pool(make_pod("spare", ip="10.0.0.1")))
    followed = follow(pools=True)
    await followed.synced()
    watch = await api_server.watch("pods")
    await watch.send("MODIFIED", api_server.put(make_pod("spare", ip="10.0.0.1")))
    await followed.sink.until(lambda s: len(s.changes) == 2, "the change")
    assert followed.sink.changes == [("put", "spare"), ("remove from pool", "spare")]
    assert set(followed.sink.pods) == {("default", "spare")}


async def test_a_pool_pod_gets_its_address_and_goes_when_it_terminates(
    api_server: Any, follow: Any, make_pod: Make
) -> None:
    followed = follow(pools=True)
    await followed.synced()
    watch = await api_server.watch("pods")
    await watch.send("ADDED", api_server.put(in_pool(make_pod("spare"))))
    await followed.sink.until(lambda s: s.pool_pods, "the pod")
    assert followed.sink.pool_pods["default", "spare"].host is None
    await watch.send("MODIFIED", api_server.put(in_pool(make_pod("spare", ip="10.0.0.1"))))
    await followed.sink.until(lambda s: s.pool_pods["default", "spare"].host, "its address")
    ending = in_pool(make_pod("spare", ip="10.0.0.1"), deletionTimestamp="2024-01-01T00:00:01Z")
    await watch.send("MODIFIED", api_server.put(ending))
    await followed.sink.until(lambda s: not s.pool_pods, "its end")


async def test_what_has_neither_label_is_left_out(api_server: Any, follow: Any, make_pod: Make) -> None:
    other = make_pod("other", ip="10.0.0.1")
    other["metadata"]["labels"] = {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    api_server.put(other)
    followed = follow(pools=True)
    await followed.synced()
    assert not followed.sink.pods
    assert not followed.sink.pool_pods


async def test_the_other_gateways_come_with_name_and_address(api_server: Any, follow: Any, make_pod: Make) -> None:
    """The gateway's own pods lie in its own namespace, which need not be one that it serves."""

    def ready(name: str, ip: str) -> Any:
        conditions = [{"type": "Ready", "status": "True"}]
        return make_pod(name, namespace="kappa-system", ip=ip, conditions=conditions)

    api_server.put(ready("gateway-a", "10.0.0.1"))
    followed = follow("team-a", peers=("kappa-system", "app.kubernetes.io/component=gateway"))
    await followed.sink.until(lambda s: s.peers == {"gateway-a": "10.0.0.1"}, "the first gateway")
    watch = await eventually(
        lambda: next((one for one in api_server.watching("pods") if one.scope == "kappa-system"), None), "its watch"
    )
    assert watch.query["labelSelector"] == "app.kubernetes.io/component=gateway"
    # not ready yet, then ready, then terminating
    await watch.send("ADDED", api_server.put(make_pod("gateway-b", namespace="kappa-system", ip="10.0.0.2")))
    await watch.send("ADDED", api_server.put(ready("gateway-c", "10.0.0.3")))
    await followed.sink.until(
        lambda s: s.peers == {"gateway-a": "10.0.0.1", "gateway-c": "10.0.0.3"}, "the third gateway"
    )
    second = ready("gateway-b", "10.0.0.2")
    await watch.send("MODIFIED", api_server.put(second))
    await followed.sink.until(lambda s: s.peers.get("gateway-b") == "10.0.0.2", "its readiness")
    third = ready("gateway-c", "10.0.0.3")
    third["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:01Z"
    await watch.send("MODIFIED", api_server.put(third))
    await followed.sink.until(lambda s: s.peers == {"gateway-a": "10.0.0.1", "gateway-b": "10.0.0.2"}, "its stop")
    await watch.send("DELETED", api_server.delete(second))
    await followed.sink.until(lambda s: s.peers == {"gateway-a": "10.0.0.1"}, "its end")
    assert not [pod for pod in followed.sink.pool_pods.values() if isinstance(pod, PoolPod)]
