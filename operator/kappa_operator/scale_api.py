"""`scaler.ScaleApi` on the Kubernetes API."""

from typing import Final

from kappa_core import names
from kappa_core.observed import PodFacts, resource_version
from kappa_kube import paths
from kappa_kube.client import Client
from kappa_kube.errors import ApiError

FIELD_MANAGER: Final = "kappa-scaler"
"""The manager of replicas: a write through /scale takes them from the operator's apply."""


class KubeScaleApi:
    """`api` writes as `FIELD_MANAGER`."""

    def __init__(self, api: Client) -> None:
        self._api = api

    async def scale(self, key: str, replicas: int) -> int | None:
        namespace, _, name = key.partition("/")
        path = paths.item(paths.DEPLOYMENTS, namespace, names.deployment_name(name), "scale")
        try:
            answer = await self._api.merge_patch(path, {"spec": {"replicas": replicas}})
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return resource_version(answer)

    async def set_deletion_cost(self, pod: PodFacts, cost: int) -> None:
        path = paths.item(paths.PODS, pod.namespace, pod.name)
        annotations = {names.ANNOTATION_DELETION_COST: str(cost)}
        await self._api.merge_patch(path, {"metadata": {"annotations": annotations}})
