"""Which function a request names, and what is said of one that is not there."""

import pytest
from gateway_fakes import manifest

from kappa_core.errors import FunctionNotFound, Unavailable
from kappa_core.function_name import FunctionName
from kappa_gateway.edge.lookup import Lookup
from kappa_gateway.edge.target import Target
from kappa_gateway.pods.functions import Functions


def ways(lookup, name):
    return {
        "name": lambda: lookup.by_name(FunctionName("default", name)),
        "url": lambda: lookup.by_url(Target(f"/fn/default/{name}/x".encode())),
    }


def made(*, is_synced=True):
    functions, refused = Functions(), []
    functions.put(manifest())
    if is_synced:
        functions.synced.set()
    return Lookup(functions, refused.append), functions, refused


@pytest.mark.parametrize("way", ["name", "url"])
@pytest.mark.parametrize("is_synced", [True, False])
def test_a_known_function_is_found_at_any_time(way, is_synced):
    lookup, functions, refused = made(is_synced=is_synced)
    assert ways(lookup, "hello")[way]() is functions.get("default", "hello")
    assert refused == []


@pytest.mark.parametrize("way", ["name", "url"])
@pytest.mark.parametrize(("is_synced", "error"), [(True, FunctionNotFound), (False, Unavailable)])
def test_one_that_is_not_there_may_yet_come(way, is_synced, error):
    lookup, _, refused = made(is_synced=is_synced)
    with pytest.raises(error):
        ways(lookup, "nope")[way]()
    assert refused == (["ResourceNotFoundException"] if way == "url" and is_synced else [])


def test_its_version_is_the_functions():
    lookup, functions, _ = made()
    before = lookup.version
    functions.remove("default", "hello")
    assert lookup.version != before
