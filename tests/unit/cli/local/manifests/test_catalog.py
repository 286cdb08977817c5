"""What the files say → what is served, from one reading to the next."""

import sys
from pathlib import Path

from kappa_cli.local.manifests.catalog import build, label, remarks
from kappa_cli.local.manifests.reading import Manifests, add
from kappa_core.reasons import Reason

KEY = ("default", "hello")
PATH = Path("function.yaml")
SOUND = """\
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {name: hello}
spec: {runtime: python3, handler: main.handler, code: {inline: "x"}, timeout: 3s}
"""


def read(text: str) -> Manifests:
    manifests = Manifests()
    add(manifests, PATH, text)
    return manifests


def test_a_sound_function_is_ready_and_of_generation_1() -> None:
    entry = build(read(SOUND), {})[KEY]
    ready = entry.function.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.observed_generation) == ("True", Reason.DEPLOYED, 1)
    assert entry.function.metadata.generation == 1
    assert entry.workload is not None
    assert entry.workload.function == entry.function


def test_reading_the_same_again_changes_nothing() -> None:
    first = build(read(SOUND), {})
    assert build(read(SOUND), first)[KEY] is first[KEY]


def test_a_change_is_a_new_generation() -> None:
    first = build(read(SOUND), {})
    second = build(read(SOUND.replace("3s", "4s")), first)
    assert second[KEY].function.metadata.generation == 2
    ready = second[KEY].function.condition("Ready")
    assert ready is not None
    assert ready.observed_generation == 2


def test_a_broken_manifest_is_served_as_failed_with_its_problem() -> None:
    entry = build(read(SOUND.replace("3s", "never")), {})[KEY]
    ready = entry.function.condition("Ready")
    assert entry.workload is None
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", Reason.INVALID_SPEC)
    assert "function.yaml:4: spec.timeout" in ready.message


def test_a_file_that_became_unreadable_fails_what_it_declared_until_it_is_mended_or_gone() -> None:
    first = build(read(SOUND), {})
    second = build(read("kind: ["), first)
    ready = second[KEY].function.condition("Ready")
    assert ready is not None
    assert "this is not YAML" in ready.message
    assert second[KEY].workload is None
    third = build(read("kind: ["), second)
    assert third[KEY] is second[KEY]
    assert build(read(SOUND), third)[KEY].workload is not None
    assert build(Manifests(), third) == {}


def test_a_name_that_cannot_be_is_served_as_nothing() -> None:
    assert build(read(SOUND.replace("hello", "Not-A-Name")), {}) == {}


def test_another_python_is_remarked_and_this_one_is_not() -> None:
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert list(remarks(build(read(SOUND.replace("python3", here)), {}))) == []
    assert list(remarks(build(read(SOUND), {}))) == []
    (remark,) = remarks(build(read(SOUND.replace("python3", "python3.8")), {}))
    assert remark.startswith("hello names Python 3.8 and runs on")


def test_what_cannot_run_is_remarked_with_the_reason() -> None:
    (remark,) = remarks(build(read(SOUND.replace("python3", "nodejs20")), {}))
    assert remark.startswith("hello cannot run: the runtime 'nodejs20' needs a cluster")


def test_functions_are_named_as_the_lambda_api_names_them() -> None:
    assert label("default", "hello") == "hello"
    assert label("team-a", "hello") == "team-a.hello"
