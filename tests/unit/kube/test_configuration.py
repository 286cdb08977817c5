"""The one rule for where credentials come from."""

from pathlib import Path

import pytest
import yaml
from kubernetes.aio.config import ConfigException

from kappa_kube import configuration
from kappa_kube.connection import tls_context
from kappa_kube.errors import Disconnected, NoCluster


def kubeconfig(path: Path, server: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def in_pod(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, ca = home / "token", home / "ca.crt"
    token.write_text("of-the-pod")
    ca.write_text("a certificate")
    monkeypatch.setattr("kubernetes.aio.config.incluster_config.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr("kubernetes.aio.config.incluster_config.SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")


@pytest.mark.usefixtures("in_pod")
async def test_kubeconfig_is_first_even_in_a_pod(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(home / "named", "http://named")))
    assert (await configuration.load()).host == "http://named"


@pytest.mark.usefixtures("in_pod")
async def test_a_pods_service_account_is_before_the_home_folder(home: Path) -> None:
    kubeconfig(home / ".kube" / "config", "http://home")
    loaded = await configuration.load()
    assert loaded.host == "https://10.0.0.1:443"
    assert await configuration.authorization(loaded) == "bearer of-the-pod"


@pytest.mark.usefixtures("in_pod")
async def test_a_certificate_that_is_none_is_an_error_of_the_configuration() -> None:
    with pytest.raises(NoCluster, match="certificates"):
        tls_context(await configuration.load())


@pytest.mark.usefixtures("in_pod")
async def test_a_token_that_cannot_be_read_for_a_moment_is_a_failed_request() -> None:
    def unreadable(_: object) -> None:
        raise ConfigException("Token file exists but empty.")

    loaded = await configuration.load()
    loaded.refresh_api_key_hook = unreadable
    with pytest.raises(Disconnected, match="token"):
        await configuration.authorization(loaded)


async def test_the_home_folder_is_last(home: Path) -> None:
    kubeconfig(home / ".kube" / "config", "http://home")
    assert (await configuration.load()).host == "http://home"


async def test_an_argument_takes_the_place_of_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(home / "named", "http://named")))
    given = kubeconfig(home / "given", "http://given")
    assert (await configuration.load(str(given))).host == "http://given"


@pytest.mark.usefixtures("in_pod")
async def test_a_kubeconfig_that_cannot_be_read_leads_to_no_other_cluster(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig(home / ".kube" / "config", "http://home")
    monkeypatch.setenv("KUBECONFIG", str(home / "typo"))
    with pytest.raises(NoCluster, match="typo"):
        await configuration.load()


async def test_without_any_the_message_says_where_it_was_looked_for() -> None:
    with pytest.raises(NoCluster, match="KUBECONFIG is not set"):
        await configuration.load()
