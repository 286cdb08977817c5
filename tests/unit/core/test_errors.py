"""The tree of errors, pinned: a name or status that changes here changes for clients."""

import inspect
import re

import pytest

from kappa_core import errors
from kappa_core.errors import FunctionFailed, InvalidRequest, KappaError, Throttled
from kappa_core.reasons import BLOCKING, Reason

ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
    for line in inspect.getdoc(errors).splitlines()  # type: ignore[union-attr]  # it has one
    if line.startswith("| `")
]
CLASSES = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, KappaError)
}


def test_the_docstrings_table_is_the_tree() -> None:
    assert [row[0].removeprefix("| `").strip("`| ") for row in ROWS] == list(CLASSES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`| "))
def test_a_row_says_what_its_class_does(row: list[str]) -> None:
    name, error_type, status, retryable, when = row
    cls = CLASSES[name.strip("`| ")]
    assert str(cls.status) == status
    if error_type != "by reason, see there":
        assert cls.error_type == error_type
    if retryable.startswith(("yes", "no")):
        assert cls.retryable is retryable.startswith("yes")
    assert when


def test_the_tree() -> None:
    parents = {name: cls.__base__.__name__ for name, cls in CLASSES.items()}
    assert parents == {
        "KappaError": "Exception",
        "InvalidRequest": "KappaError",
        "InvalidRequestContent": "InvalidRequest",
        "RequestTooLarge": "InvalidRequest",
        "FunctionNotFound": "InvalidRequest",
        "Throttled": "KappaError",
        "FunctionFailed": "KappaError",
        "PodLost": "KappaError",
        "BadAnswer": "KappaError",
        "GatewayTimeout": "KappaError",
        "Unavailable": "KappaError",
        "QueueUnavailable": "Unavailable",
        "QueueFull": "Throttled",
    }


@pytest.mark.parametrize("cls", CLASSES.values())
def test_a_users_fault_is_a_4xx(cls: type[KappaError]) -> None:
    assert (cls.fault == "User") == (400 <= cls.status < 500)
    assert cls.fault in ("User", "Service")


def test_the_body_is_lambdas() -> None:
    assert InvalidRequest("no").body() == {"Type": "User", "Message": "no"}
    assert KappaError("oh").body() == {"Type": "Service", "Message": "oh"}
    throttled = Throttled("full", retry_after=2.5)
    assert throttled.body() == {"Type": "User", "Reason": "ConcurrentInvocationLimitExceeded", "message": "full"}
    assert throttled.retry_after == 2.5
    assert str(throttled) == throttled.message == "full"


@pytest.mark.parametrize("reason", sorted(BLOCKING))
def test_a_function_that_cannot_run_has_one_of_lambdas_names_for_it(reason: Reason) -> None:
    for given in (reason, str(reason)):  # a condition read from the cluster holds plain text
        failed = FunctionFailed("why", reason=given)
        assert (failed.status, failed.reason) == (502, reason)
        assert re.fullmatch(r"[A-Z][A-Za-z]+Exception", failed.error_type)
    assert FunctionFailed("", reason="UnknownRuntime").error_type == "InvalidRuntimeException"
    assert FunctionFailed("", reason="CodeUnreadable").error_type == "InvalidZipFileException"
    assert FunctionFailed("", reason="Crashing").error_type == "ResourceNotReadyException"


@pytest.mark.parametrize(
    "error",
    [
        Throttled("no slot", retry_after=7.0, reason="ReservedFunctionConcurrentInvocationLimitExceeded"),
        FunctionFailed("no such runtime", reason=Reason.UNKNOWN_RUNTIME.value),
        errors.FunctionNotFound("there is none"),
        errors.PodLost("it broke"),
        errors.GatewayTimeout("too late"),
        KappaError("a bug"),
    ],
)
def test_an_error_passes_from_one_gateway_to_another(error: KappaError) -> None:
    read = errors.decode(errors.encode(error))
    assert type(read) is type(error)
    assert (read.body(), read.status, read.error_type) == (error.body(), error.status, error.error_type)
    assert read.retry_after == error.retry_after


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": "Nothing"}', b'{"error": ["x"], "message": 1, "reason": 2}'])
def test_what_is_no_error_is_read_as_the_root(body: bytes) -> None:
    assert type(errors.decode(body)) is KappaError
