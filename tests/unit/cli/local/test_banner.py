"""What `kappa local up` prints once it serves."""

from pathlib import Path

from kappa_cli.local import banner
from kappa_cli.local.manifests.catalog import Catalog, build
from kappa_cli.local.manifests.reading import Manifests, add

SOUND = """\
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {name: hello}
spec: {runtime: python3, handler: main.handler, code: {inline: "x"}}
"""


def catalog_of(text: str) -> Catalog:
    manifests = Manifests()
    add(manifests, Path("function.yaml"), text)
    return build(manifests, {})


def test_the_banner_shows_an_address_that_can_be_called() -> None:
    catalog = catalog_of(SOUND)
    text = banner.text(catalog, "0.0.0.0", 8080)
    assert "http://127.0.0.1:8080/fn/default/hello" in text
    assert "--gateway" not in text
    assert "--gateway http://[::1]:9000" in banner.text(catalog, "::1", 9000)


def test_the_banner_of_many_functions_is_bounded() -> None:
    text = "---\n".join(SOUND.replace("hello", f"hello-{number}") for number in range(50))
    assert "  and 30 more" in banner.text(catalog_of(text), "127.0.0.1", 8080)
