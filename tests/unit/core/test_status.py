"""What is observed → conditions: each reason a user can meet, with a message that helps."""

from dataclasses import replace
from typing import Any

import pytest

from kappa_core import names
from kappa_core.function import Condition, FunctionStatus
from kappa_core.observed import DeploymentFacts, PodFacts, Problem, deployment_facts, pod_facts
from kappa_core.reasons import BLOCKING, Reason
from kappa_core.status import Observation, derive, material

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
REVISION = "abc"
DEPLOYMENT = DeploymentFacts(
    uid="d",
    resource_version=10,
    generation=1,
    observed_generation=1,
    controller_uid="u",
    controller="Function/hello",
    revision=REVISION,
    replicas=0,
    total=0,
    updated=0,
    ready=0,
    rejection="",
    digest="x",
    owns_replicas=False,
    deleting=False,
)
POD = PodFacts(
    namespace="default",
    name="fn-hello-1",
    uid="p1",
    function="hello",
    revision=REVISION,
    ip="10.0.0.1",
    running=True,
    ready=False,
    terminating=False,
    protocol="lambda",
    deletion_cost=0,
    restarts=0,
    problem=None,
)


def observe(**facts: Any) -> Observation:
    return Observation(**{"generation": 1, "revision": REVISION, "deployment": DEPLOYMENT, "url": "http://g", **facts})


def conditions(status: FunctionStatus) -> dict[str, Condition]:
    return {condition.type: condition for condition in status.conditions}


def ready(status: FunctionStatus) -> Condition:
    return conditions(status)["Ready"]


def raw_pod(
    *containers: dict[str, Any], ready: bool = False, conditions: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "fn-hello-1",
            "namespace": "default",
            "uid": "p1",
            "labels": {names.LABEL_FUNCTION: "hello"},
            "annotations": {names.ANNOTATION_REVISION: REVISION},
        },
        "spec": {
            "containers": [{"name": "function", "image": "team/app:1", "resources": {"limits": {"memory": "128Mi"}}}]
        },
        "status": {
            "podIP": "10.0.0.1",
            "conditions": conditions or [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "function", **c} for c in containers],
        },
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def problem_of(*containers: dict[str, Any], **more: Any) -> Problem:
    problem = pod_facts(raw_pod(*containers, **more)).problem
    assert problem is not None
    return problem


def test_without_pods_it_is_ready_and_its_code_not_yet_known() -> None:
    status = derive(observe(), FunctionStatus(), NOW)
    assert (ready(status).status, ready(status).reason) == ("True", "Deployed")
    assert conditions(status)["CodeAvailable"].status == "Unknown"
    assert conditions(status)["Progressing"].status == "False"
    assert status.observed_generation == 1
    assert all(condition.observed_generation == 1 for condition in status.conditions)


def test_a_ready_pod_of_this_revision_verifies_it() -> None:
    up = replace(DEPLOYMENT, replicas=1, total=1, updated=1, ready=1)
    status = derive(observe(deployment=up, pods=[replace(POD, ready=True)]), FunctionStatus(), NOW)
    assert ready(status).reason == "Running"
    assert conditions(status)["CodeAvailable"].reason == "CodeLoaded"
    assert (status.verified_revision, status.replicas, status.ready_replicas) == (REVISION, 1, 1)


def test_a_ready_pod_of_an_older_revision_verifies_nothing() -> None:
    status = derive(observe(pods=[replace(POD, ready=True, revision="old")]), FunctionStatus(), NOW)
    assert status.verified_revision is None
    assert conditions(status)["CodeAvailable"].status == "Unknown"


def test_the_verdict_outlives_the_pod() -> None:
    up = derive(observe(pods=[replace(POD, ready=True)]), FunctionStatus(), NOW)
    status = derive(observe(), up, LATER)
    assert (ready(status).reason, conditions(status)["CodeAvailable"].reason) == ("Deployed", "CodeLoaded")


def test_code_that_does_not_load_is_told_and_does_not_block() -> None:
    failure = Problem(Reason.INIT_FAILED, "the code does not load: Runtime.ImportModuleError: No module named 'nope'.")
    broken = derive(observe(pods=[POD], init_failures={"p1": failure}), FunctionStatus(), NOW)
    assert (ready(broken).status, ready(broken).reason) == ("False", "InitFailed")
    assert "No module named 'nope'" in ready(broken).message
    assert conditions(broken)["CodeAvailable"].reason == "InitFailed"
    assert Reason.INIT_FAILED not in BLOCKING
    assert broken.verified_revision == REVISION
    assert ready(derive(observe(), broken, LATER)).reason == "InitFailed", "the pod is gone, its lesson stays"
    starting = derive(observe(pods=[replace(POD, running=False)]), broken, LATER)
    assert ready(starting).reason == "InitFailed", "a new pod that only starts refutes nothing"
    mended = derive(observe(pods=[replace(POD, ready=True)]), broken, LATER)
    assert (ready(mended).status, ready(mended).last_transition_time) == ("True", LATER)


def test_new_code_begins_with_a_clean_slate() -> None:
    failure = Problem(Reason.INIT_FAILED, "bad")
    broken = derive(observe(pods=[POD], init_failures={"p1": failure}), FunctionStatus(), NOW)
    assert ready(derive(observe(generation=2, revision="new"), broken, LATER)).reason == "Deployed"
    assert ready(derive(observe(revision="new"), broken, LATER)).reason == "Deployed", "a ConfigMap's new code too"


def test_a_template_that_never_started_keeps_its_problem_until_a_pod_is_ready() -> None:
    problem = Problem(Reason.IMAGE_PULL_FAILED, "the image cannot be pulled")
    broken = derive(observe(pods=[replace(POD, running=False, problem=problem)]), FunctionStatus(), NOW)
    assert broken.verified_revision is None
    assert ready(derive(observe(), broken, LATER)).reason == "ImagePullFailed"


def test_a_template_that_once_started_forgets_a_passing_problem_with_the_pod() -> None:
    once = derive(observe(pods=[replace(POD, ready=True)]), FunctionStatus(), NOW)
    problem = Problem(Reason.IMAGE_PULL_FAILED, "the registry is down")
    down = derive(observe(pods=[replace(POD, problem=problem)]), once, NOW)
    assert ready(down).reason == "ImagePullFailed"
    assert ready(derive(observe(), down, LATER)).reason == "Deployed", "the next invocation tries again"


def test_a_problem_of_the_spec_comes_first_and_older_pods_are_mentioned() -> None:
    problem = Problem(Reason.UNKNOWN_RUNTIME, "no such runtime.")
    status = derive(observe(problem=problem, revision="", pods=[replace(POD, ready=True)]), FunctionStatus(), NOW)
    assert ready(status).reason == "UnknownRuntime"
    assert ready(status).message.endswith("Pods of an earlier revision still serve.")


def test_the_mention_of_older_pods_does_not_pile_up() -> None:
    problem = Problem(Reason.CRASHING, "it ends.")
    pods = [replace(POD, ready=True, revision="old"), replace(POD, uid="p2", problem=problem)]
    status = derive(observe(pods=pods), FunctionStatus(), NOW)
    for _ in range(3):
        status = derive(observe(pods=pods[:1]), status, LATER)
    assert ready(status).message == "it ends. Pods of an earlier revision still serve."


def test_a_transition_time_moves_only_with_the_status() -> None:
    first = derive(observe(), FunctionStatus(), NOW)
    up = replace(DEPLOYMENT, replicas=1)
    second = derive(observe(deployment=up), first, LATER)
    assert (ready(second).reason, ready(second).last_transition_time) == ("Starting", NOW)


def test_deriving_again_changes_nothing() -> None:
    for pods in ([], [POD], [replace(POD, ready=True)], [replace(POD, problem=Problem(Reason.CRASHING, "x"))]):
        first = derive(observe(pods=pods), FunctionStatus(), NOW)
        assert derive(observe(pods=pods), first, LATER) == first


def test_counts_and_good_reasons_can_wait_but_bad_news_cannot() -> None:
    quiet = derive(observe(), FunctionStatus(), NOW)
    starting = derive(observe(deployment=replace(DEPLOYMENT, replicas=1, total=1)), quiet, NOW)
    assert starting != quiet
    assert not material(quiet, starting)
    assert material(quiet, derive(observe(pods=[replace(POD, ready=True)]), quiet, NOW)), "verified"
    assert material(quiet, derive(observe(pods=[replace(POD, problem=Problem(Reason.CRASHING, "x"))]), quiet, NOW))
    assert material(quiet, derive(observe(generation=2), quiet, NOW))


def test_a_rolling_update_is_progress() -> None:
    rolling = replace(DEPLOYMENT, replicas=2, total=3, updated=1)
    status = derive(observe(deployment=rolling), FunctionStatus(), NOW)
    assert conditions(status)["Progressing"].status == "True"
    assert conditions(status)["Progressing"].message == "1 of 2 pods have the newest spec."


def test_pods_that_the_cluster_refuses() -> None:
    raw = {
        "metadata": {"name": "fn-hello"},
        "spec": {"replicas": 1},
        "status": {
            "conditions": [
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "message": 'pods "fn-hello-5d8-x7" is forbidden: exceeded quota: small',
                }
            ]
        },
    }
    facts = deployment_facts(raw)
    status = derive(observe(deployment=replace(facts, revision=REVISION)), FunctionStatus(), NOW)
    assert ready(status).reason == "PodRejected"
    assert "exceeded quota: small" in ready(status).message
    assert "fn-hello-5d8" not in ready(status).message


@pytest.mark.parametrize(
    "state",
    [
        waiting("ErrImagePull", "failed to resolve reference: not found"),
        waiting(
            "ImagePullBackOff",
            'Back-off pulling image "team/app:1": ErrImagePull: failed to resolve reference: not found',
        ),
    ],
)
def test_the_kubelets_two_ways_to_say_that_an_image_is_missing_read_the_same(state: dict[str, Any]) -> None:
    problem = problem_of(state)
    assert problem.reason == Reason.IMAGE_PULL_FAILED
    assert problem.message.startswith(
        "the image 'team/app:1' cannot be pulled: failed to resolve reference: not found. Check"
    )


def test_an_image_name_that_is_none() -> None:
    assert problem_of(waiting("InvalidImageName", "couldn't parse")).reason == Reason.IMAGE_PULL_FAILED


def test_a_missing_secret_is_named() -> None:
    problem = problem_of(waiting("CreateContainerConfigError", 'secret "db" not found'))
    assert problem.reason == Reason.CONFIG_MISSING
    assert 'secret "db" not found' in problem.message
    assert "'default'" in problem.message


def test_an_image_that_wants_root_says_how_to_go_on() -> None:
    said = 'container has runAsNonRoot and image will run as root (pod: "x_default(uid)", container: function)'
    problem = problem_of(waiting("CreateContainerConfigError", said))
    assert problem.reason == Reason.POD_REJECTED
    assert "runAsUser" in problem.message
    assert "uid)" not in problem.message


def test_a_container_that_ends_again_and_again() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}, "restartCount": 1}
    assert "exit code 3" in problem_of({**waiting("CrashLoopBackOff"), **ended}).message


def test_a_crash_tells_the_last_line_of_its_log() -> None:
    log = "Traceback (most recent call last):\n  File ...\nValueError: no DATABASE_URL\n\n"
    ended = {"lastState": {"terminated": {"exitCode": 1, "message": log}}, "restartCount": 1}
    assert problem_of({**waiting("CrashLoopBackOff"), **ended}).message.endswith("ValueError: no DATABASE_URL")


def test_between_two_crashes_it_is_still_crashing() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 3}}, "restartCount": 2, "state": {"running": {}}}
    assert problem_of(ended).reason == Reason.CRASHING


def test_too_little_memory_is_called_that() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "restartCount": 2}
    problem = problem_of({**waiting("CrashLoopBackOff"), **ended})
    assert "limit of 128Mi. Raise spec.memory" in problem.message


def test_no_node_takes_it() -> None:
    said = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes: Insufficient memory.",
    }
    problem = problem_of(conditions=[said])
    assert problem.reason == Reason.UNSCHEDULABLE
    assert "Insufficient memory" in problem.message
    assert Reason.UNSCHEDULABLE not in BLOCKING, "a node may come"


def test_a_pod_that_is_ready_has_no_problem_whatever_came_before() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 1}}, "restartCount": 5, "state": {"running": {}}, "ready": True}
    assert pod_facts(raw_pod(ended, ready=True)).problem is None


def test_one_restart_is_no_crash_loop() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 1}}, "restartCount": 1, "state": {"running": {}}}
    assert pod_facts(raw_pod(ended)).problem is None


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        (("spec", "replicas"), 5, True),
        (("status",), {"replicas": 5}, True),
        (("metadata", "annotations"), {"deployment.kubernetes.io/revision": "2"}, True),
        (("spec", "template"), {"spec": {"containers": []}}, False),
        (("metadata", "labels"), {}, False),
        (("metadata", "ownerReferences"), [], False),
    ],
)
def test_the_digest_moves_when_somebody_changes_what_is_ours(path: tuple[str, ...], value: Any, same: bool) -> None:
    raw: dict[str, Any] = {
        "metadata": {
            "name": "fn-hello",
            "labels": {names.LABEL_FUNCTION: "hello"},
            "ownerReferences": [{"uid": "u", "kind": "Function", "name": "hello", "controller": True}],
        },
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "function"}]}}},
        "status": {},
    }
    before = deployment_facts(raw).digest
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert (deployment_facts(raw).digest == before) is same


def test_a_web_server_that_does_not_listen_blocks_until_a_pod_is_ready() -> None:
    deaf = Problem(Reason.NOT_LISTENING, "nothing listens on port 9999")
    starting = replace(DEPLOYMENT, replicas=1, total=1)
    status = derive(observe(deployment=starting, pods=[POD], init_failures={"p1": deaf}), FunctionStatus(), NOW)
    assert (ready(status).status, ready(status).reason) == ("False", "NotListening")
    assert Reason.NOT_LISTENING in BLOCKING
    assert status.verified_revision != REVISION
    gone = derive(observe(), status, NOW)
    assert ready(gone).reason == "NotListening", "the pod goes, its lesson stays"
    up = derive(observe(deployment=starting, pods=[replace(POD, ready=True)]), gone, NOW)
    assert ready(up).status == "True"


@pytest.mark.parametrize(
    ("agent_ready", "state", "restarts", "spent", "problem"),
    [
        (True, waiting("CrashLoopBackOff"), 2, True, False),
        # the kubelet starts it at once, and after that only when some time has passed
        (True, {"state": {"terminated": {"exitCode": 137}}}, 0, False, False),
        (True, {"state": {"terminated": {"exitCode": 137}}}, 1, True, False),
        (True, {"state": {"running": {}}}, 1, False, False),
        (False, waiting("CrashLoopBackOff"), 2, False, True),
    ],
    ids=["waits for the kubelet", "ended for the first time", "ended again", "runs again", "never worked"],
)
def test_a_runtime_beside_the_agent_that_ended(
    agent_ready: bool, state: dict[str, Any], restarts: int, spent: bool, problem: bool
) -> None:
    ended = {**state, "restartCount": restarts, "lastState": {"terminated": {"exitCode": 137}}}
    facts = pod_facts(raw_pod({"name": "agent", "ready": agent_ready}, ended))
    assert (facts.spent, facts.problem is not None) == (spent, problem)
