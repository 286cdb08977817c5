"""kubectl for the cluster tests, and quick reads of the API beside it.

A process of kubectl costs a tenth of a second of CPU, so whatever is asked for again and again is read by `get`, `find`
and `items` over one kept connection instead.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from kubernetes import client, config
from urllib3.exceptions import HTTPError

Object = dict[str, Any]

_CORE, _APPS = "/api/v1", "/apis/apps/v1"
_GROUPS: Mapping[str, str] = {
    "configmaps": _CORE,
    "events": _CORE,
    "nodes": _CORE,
    "pods": _CORE,
    "secrets": _CORE,
    "services": _CORE,
    "deployments": _APPS,
    "replicasets": _APPS,
    "functions": "/apis/kappa.run/v1alpha1",
    "customresourcedefinitions": "/apis/apiextensions.k8s.io/v1",
}
"""Plural name → API group, of all that `get`, `find` and `items` know."""


class CommandFailed(AssertionError):
    """A command ended with another code than 0; the message holds what it printed."""


def run(*command: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float = 120) -> str:
    """A command's standard output. Raises `CommandFailed` with its standard error when it fails."""
    done = subprocess.run(
        command, env=dict(env or os.environ), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def find_program(name: str) -> str:
    """A command's path; envtest's usual folder counts even where PATH does not name it."""
    found = shutil.which(name, path=f"/usr/local/kubebuilder/bin:{os.environ.get('PATH', '')}")
    if not found:
        pytest.fail(f"the cluster tests need {name} in PATH", pytrace=False)
    return found


@dataclass(frozen=True)
class Kubectl:
    """`kubectl("get", "pods", namespace="x")` is that command's output. Raises `CommandFailed`.

    `get`, `find` and `items` take a plural resource name and need no process.
    """

    kubeconfig: str
    program: str = field(default_factory=lambda: find_program("kubectl"))

    def __call__(self, *args: str, namespace: str | None = None, stdin: str | None = None, timeout: float = 120) -> str:
        where = ("--namespace", namespace) if namespace else ()
        return run(self.program, "--kubeconfig", self.kubeconfig, *where, *args, stdin=stdin, timeout=timeout)

    def apply(self, *manifests: Mapping[str, Any] | str, namespace: str | None = None) -> None:
        """Apply manifests, each a dictionary or YAML text."""
        text = "\n---\n".join(
            manifest if isinstance(manifest, str) else yaml.safe_dump(dict(manifest)) for manifest in manifests
        )
        self("apply", "--filename", "-", namespace=namespace, stdin=text)

    def exec_last(self, pod: str, *command: str, namespace: str | None = None) -> None:
        """Run in a pod's container what ends that container, and with it, often, the command before it can report.

        What kubectl says of that is only printed, for a test that fails: the test asserts that the container ended.
        """
        try:
            self("exec", pod, "--", *command, namespace=namespace)
        except CommandFailed as error:
            print(error)

    def get(self, resource: str, name: str, *, namespace: str | None = None) -> Object:
        """One object. Raises AssertionError where it does not exist."""
        found = self.find(resource, name, namespace=namespace)
        assert found is not None, f"there is no {name} among the {resource} of {namespace}"
        return found

    def find(self, resource: str, name: str, *, namespace: str | None = None) -> Object | None:
        """One object, or None where it does not exist."""
        return self._read(f"{_path(resource, namespace)}/{quote(name)}")

    def items(self, resource: str, selector: str = "", *, namespace: str | None = None) -> list[Object]:
        """The objects of a namespace, or of all, that a label selector such as `a=b,c` matches."""
        found = self._read(_path(resource, namespace), selector)
        assert found is not None, f"the API server has no {resource}"
        items: list[Object] = found["items"]
        return items

    def close(self) -> None:
        if "_api" in self.__dict__:
            self._api.rest_client.pool_manager.clear()
            self._api.close()

    @cached_property
    def _api(self) -> client.ApiClient:
        return config.new_client_from_config(self.kubeconfig)

    def _read(self, path: str, selector: str = "") -> Object | None:
        """The parsed answer, None for a 404. Raises AssertionError for any other failure."""
        try:
            request = self._api.param_serialize(
                "GET",
                path,
                query_params=[("labelSelector", selector)] if selector else [],
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
            )
            answer = self._api.call_api(*request, _request_timeout=30)
            data = answer.read()
        except (client.ApiException, HTTPError) as error:
            raise AssertionError(f"GET {path}: {error}") from error
        if answer.status == 404:
            return None
        assert answer.status == 200, f"GET {path}: {answer.status} {data.decode(errors='replace')}"
        found: Object = json.loads(data)
        return found


def _path(resource: str, namespace: str | None) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{_GROUPS[resource]}{where}/{resource}"
