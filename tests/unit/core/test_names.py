import re

from kappa_core import names

LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")


def test_labels_and_annotations_are_valid_and_apart() -> None:
    keys = [value for name, value in vars(names).items() if name.startswith(("LABEL_", "ANNOTATION_"))]
    assert len(keys) == len(set(keys)) >= 8
    for key in keys:
        prefix, _, name = key.partition("/")
        assert LABEL_PREFIX.fullmatch(prefix), key
        assert LABEL_NAME.fullmatch(name), key


def test_ports_are_apart_and_need_no_root() -> None:
    gateway = {names.GATEWAY_PORT, names.GATEWAY_INTERNAL_PORT}
    pod = {names.AGENT_PORT, names.RUNTIME_API_PORT}
    assert len(gateway) == len(pod) == 2
    assert min(gateway | pod | {names.OPERATOR_PORT}) >= 1024


def test_names_of_a_function() -> None:
    assert names.CRD_NAME == "functions.kappa.run"
    assert names.API_VERSION == "kappa.run/v1alpha1"
    assert names.deployment_name("hello") == "fn-hello"
    assert names.function_key("team-a", "hello") == "team-a/hello"


def test_the_longest_function_name_makes_a_valid_deployment_name() -> None:
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name := names.deployment_name("a" * 63))
    assert len(name) <= 253
