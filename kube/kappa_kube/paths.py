"""Paths of the API server for the objects that Kappa touches."""

from urllib.parse import quote

from kappa_core import names

FUNCTIONS = f"apis/{names.API_VERSION}/{{}}{names.PLURAL}"
DEPLOYMENTS = "apis/apps/v1/{}deployments"
REPLICA_SETS = "apis/apps/v1/{}replicasets"
PODS = "api/v1/{}pods"
CONFIG_MAPS = "api/v1/{}configmaps"
LEASES = "apis/coordination.k8s.io/v1/{}leases"
EVENTS = "apis/events.k8s.io/v1/{}events"


def collection(resource: str, namespace: str | None) -> str:
    """The list of a resource in one namespace, or in all of them where it is None or empty."""
    return "/" + resource.format(f"namespaces/{quote(namespace, safe='')}/" if namespace else "")


def item(resource: str, namespace: str, name: str, subresource: str = "") -> str:
    path = f"{collection(resource, namespace)}/{quote(name, safe='')}"
    return f"{path}/{subresource}" if subresource else path
