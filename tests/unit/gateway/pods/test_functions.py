"""The functions that a gateway knows: their records, who hears of changes, and when lookups may be cached."""

import pytest
from gateway_fakes import manifest

from kappa_core.errors import FunctionFailed
from kappa_core.function import Condition, Function, FunctionStatus
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.state import FunctionState


class NotingListener:
    def __init__(self, functions):
        self.heard = []
        functions.subscribe(self)

    def function_changed(self, function):
        self.heard.append(("changed", function.name))

    def function_gone(self, function):
        self.heard.append(("gone", function.name))


def test_listeners_hear_of_what_comes_changes_and_goes():
    functions = Functions()
    listener = NotingListener(functions)
    state = functions.put(manifest())
    functions.put(manifest(timeout="5s"))
    functions.remove("default", "hello")
    functions.discard_if_unused(state)
    functions.discard_if_unused(state)
    assert listener.heard == [("changed", "hello"), ("changed", "hello"), ("gone", "hello")]


def test_a_record_stays_while_there_are_pods_of_it():
    functions = Functions()
    state = functions.put(manifest())
    state.pods["p"] = object()
    functions.remove("default", "hello")
    functions.discard_if_unused(state)
    assert functions.get("default", "hello") is None
    assert list(functions) == [state]
    assert functions.put(manifest()) is state


def test_a_record_of_before_does_not_take_the_new_one_away():
    functions = Functions()
    old = functions.put(manifest())
    functions.remove("default", "hello")
    functions.discard_if_unused(old)
    new = functions.put(manifest())
    functions.discard_if_unused(old)
    assert functions.get("default", "hello") is new


def test_removing_what_is_not_known_is_nothing():
    functions = Functions()
    functions.state("default", "pods-only")
    assert functions.remove("default", "hello") is None
    assert functions.remove("default", "pods-only") is None
    assert functions.version == 0


def test_the_version_changes_when_a_name_may_mean_something_else():
    functions = Functions()
    versions = [functions.version]
    functions.put(manifest())
    versions.append(functions.version)
    functions.put(manifest(timeout="5s"))
    assert functions.version == versions[-1], "the same record"
    functions.remove("default", "hello")
    versions.append(functions.version)
    functions.put(manifest())
    versions.append(functions.version)
    assert len(set(versions)) == 4


def test_the_arn_is_of_this_installation():
    functions = Functions(region="eu-west-1", account="123456789012")
    assert functions.put(manifest()).arn == "arn:aws:lambda:eu-west-1:123456789012:function:hello"


# -- what a manifest says


def with_ready(reason, status="False", generation=1):
    condition = Condition(
        type="Ready",
        status=status,
        observed_generation=generation,
        last_transition_time="2026-01-01T00:00:00Z",
        reason=reason,
        message="the image nowhere/none:1 cannot be pulled",
    )
    return manifest().model_copy(update={"status": FunctionStatus(conditions=[condition])})


@pytest.mark.parametrize(
    ("given", "is_failed"),
    [
        (with_ready("ImagePullFailed"), True),
        (with_ready("ImagePullFailed", generation=None), True),
        (with_ready("ImagePullFailed", generation=0), False),
        (with_ready("ImagePullFailed", status="True"), False),
        (with_ready("InitFailed"), False),
        (manifest(), False),
    ],
)
def test_why_no_pod_can_come(given, is_failed):
    state = FunctionState("default", "hello")
    state.apply(given)
    assert isinstance(state.failure, FunctionFailed) is is_failed
    if is_failed:
        assert "default/hello cannot run (ImagePullFailed): the image nowhere/none:1" in state.failure.message


def eligible(path="Pool", observed=1):
    status = {"observedGeneration": observed, "coldStart": {"path": path, "reason": "test"}}
    return Function.model_validate({**manifest().model_dump(by_alias=True), "status": status})


@pytest.mark.parametrize(
    ("given", "is_eligible"),
    [
        (eligible(), True),
        (eligible("Deployment"), False),
        (eligible(observed=0), False),
        (manifest(), False),
        (None, False),
    ],
)
def test_who_may_start_from_a_pool(given, is_eligible):
    state = FunctionState("default", "hello")
    state.apply(eligible())
    state.apply(given)
    assert state.is_pool_eligible is is_eligible
