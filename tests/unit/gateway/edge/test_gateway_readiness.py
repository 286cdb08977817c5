"""Whether requests should be sent here."""

from gateway_fakes import manifest

from kappa_gateway.edge.readiness import GatewayReadiness
from kappa_gateway.pods.functions import Functions


def test_ready_from_the_first_lists_until_it_stops():
    functions = Functions()
    readiness = GatewayReadiness(functions)
    assert (readiness.is_ready, readiness.is_stopping, readiness.status) == (False, False, "not synced")
    functions.synced.set()
    assert (readiness.is_ready, readiness.is_stopping, readiness.status) == (True, False, "ok")
    readiness.stop()
    assert (readiness.is_ready, readiness.is_stopping, readiness.status) == (False, True, "stopping")


def test_a_name_that_only_pods_have_is_no_function():
    functions = Functions()
    functions.put(manifest())
    functions.state("default", "pods-only")
    assert GatewayReadiness(functions).functions == 1
