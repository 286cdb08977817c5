"""Our labels are removed from a Deployment, and the watch's selector may still match it."""

from typing import Any

from kappa_core import names
from kappa_operator.cache import Cache
from kappa_operator.watch import Watcher


def deployment(labels: dict[str, str], version: int) -> dict[str, Any]:
    labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_COMPONENT: names.COMPONENT_FUNCTION, **labels}
    return {
        "metadata": {
            "name": "fn-hello",
            "namespace": "team",
            "uid": "u",
            "resourceVersion": str(version),
            "labels": labels,
            "generation": 1,
        },
        "spec": {"replicas": 0, "template": {"metadata": {}, "spec": {"containers": []}}},
        "status": {},
    }


def test_a_deployment_that_lost_our_label_is_forgotten_and_its_function_looked_at() -> None:
    cache, queued = Cache(), list[str]()
    watcher = Watcher(cache, queued.append)
    watcher.deployment(deployment({names.LABEL_FUNCTION: "hello"}, 1), gone=False)
    assert cache.deployments.get("team/hello") is not None
    queued.clear()
    watcher.deployment(deployment({}, 2), gone=False)
    assert cache.deployments.get("team/hello") is None
    assert queued == ["team/hello"]


def test_a_deployment_of_another_owner_changes_nothing() -> None:
    cache, queued = Cache(), list[str]()
    watcher = Watcher(cache, queued.append)
    watcher.deployment(deployment({names.LABEL_FUNCTION: "hello"}, 1), gone=False)
    queued.clear()
    other = deployment({}, 2)
    other["metadata"]["uid"] = "another"
    watcher.deployment(other, gone=False)
    assert cache.deployments.get("team/hello") is not None
    assert queued == []
