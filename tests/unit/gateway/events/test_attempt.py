"""One attempt: what an invocation came to, as a value, and what is counted."""

import pytest
from event_fakes import make_functions, make_manifest

from kappa_core.errors import FunctionFailed, FunctionNotFound, GatewayTimeout, PodLost, Throttled
from kappa_core.event import Trouble
from kappa_core.metrics import Outcome
from kappa_gateway.events.attempt import TOO_LARGE, Attempt, LeasedPlace
from kappa_gateway.events.results import LeaseLost, NoFunction, Withdrawn


class Connection:
    def __init__(self, *chunks, status=200, headers=()):
        self.status = status
        self.headers = list(headers)
        self.keep_alive = self.active = True
        self.deadline, self.closing_request = 5.0, b""
        self.log = []
        self._chunks = list(chunks)

    async def chunk(self):
        return self._chunks.pop(0) if self._chunks else None

    def abort(self, error):
        self.log.append("abort")

    def finish(self):
        self.active = False
        self.log.append("finish")


class Invocation:
    """`answer`: the connection, None, or the error."""

    request_id = "one"

    def __init__(self, answer, *, function, protocol="lambda", kept=True):
        self.function, self.protocol = function, protocol
        self.ended = []
        self.forgotten = False
        self._answer = answer
        self._kept = kept

    async def send(self, request):
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def forget(self):
        self.forgotten = True

    def end(self, outcome, *, keep_connection):
        assert keep_connection
        self.ended.append(outcome)
        return self._answer if isinstance(self._answer, Connection) and self._kept else None


class Case:
    def __init__(self, answer, *, spec=None, limit=100, keep=10, **more):
        functions = make_functions(make_manifest(**(spec or {})))
        self.may_attempt, self.places = True, []
        self.place = LeasedPlace(lambda: self.may_attempt, self.places.append)
        self.invocation = Invocation(answer, function=functions.get("default", "hello"), **more)
        self.attempt = Attempt(self.invocation, 2, self.place, limit=limit, keep=keep)

    async def run(self):
        return await self.attempt.run(None)


async def test_an_answer_is_judged_and_its_connection_held():
    connection = Connection(b"12345", b"6789012345")
    case = Case(connection)
    result = await case.run()
    assert (result.trouble, result.response, result.response_size) == (None, b"1234567890", 15)
    assert case.invocation.ended == [Outcome.SUCCESS]
    assert connection.closing_request.startswith(b"DELETE /kept/one/2 ")
    assert connection.deadline == float("inf")
    case.attempt.held.settled()
    case.attempt.held.abandon()
    assert connection.log == ["finish"]


async def test_an_abandoned_answer_breaks_its_connection():
    connection = Connection(b"1")
    case = Case(connection)
    await case.run()
    case.attempt.held.abandon()
    case.attempt.held.abandon()
    assert connection.log == ["abort", "finish"]


async def test_a_function_error_is_counted_as_one():
    case = Case(Connection(b"{}", headers=[(b"x-amz-function-error", b"Unhandled")]))
    assert (await case.run()).trouble is Trouble.FUNCTION_ERROR
    assert case.invocation.ended == [Outcome.FUNCTION_ERROR]


async def test_a_web_servers_answer_is_judged_by_its_status():
    case = Case(Connection(b"no", status=404), protocol="http")
    result = await case.run()
    assert (result.trouble, result.status_code) == (Trouble.FUNCTION_ERROR, 404)


async def test_too_large_an_answer_is_a_function_error_and_its_connection_ends():
    connection = Connection(b"x" * 60, b"x" * 60, b"x" * 60)
    case = Case(connection, kept=False)
    result = await case.run()
    assert (result.trouble, result.error["errorType"]) == (Trouble.FUNCTION_ERROR, TOO_LARGE)
    assert not connection.keep_alive
    assert case.attempt.held is None


@pytest.mark.parametrize("lost", [False, True])
async def test_nothing_was_sent(lost):
    case = Case(None)
    if lost:
        case.may_attempt = False
        assert not case.place.may_begin()
    assert await case.run() == (LeaseLost() if lost else Withdrawn())
    assert case.invocation.forgotten, "it is no invocation at all"


async def test_a_function_that_is_gone_is_no_result():
    assert await Case(FunctionNotFound("gone")).run() == NoFunction()


@pytest.mark.parametrize(
    ("error", "outcome", "uncertain"),
    [
        (Throttled("busy"), Outcome.THROTTLED, False),
        (FunctionFailed("broken", reason="InitFailed"), Outcome.FAILED, False),
        (PodLost("lost"), Outcome.LOST, True),
        (GatewayTimeout("late"), Outcome.TIMEOUT, True),
    ],
)
async def test_an_error_makes_the_function_unavailable(error, outcome, uncertain):
    case = Case(error)
    result = await case.run()
    assert (result.trouble, result.reason, result.uncertain) == (Trouble.UNAVAILABLE, outcome.value, uncertain)
    assert result.error == {"errorType": error.error_type, "errorMessage": error.message}
    assert case.invocation.ended == [outcome]


async def test_a_web_servers_loss_is_certain_as_nothing_can_be_asked():
    case = Case(PodLost("lost"), spec={"code": {"image": {"ref": "web:1", "protocol": "http"}}})
    assert not (await case.run()).uncertain


async def test_a_function_that_is_switched_off_refuses():
    case = Case(Throttled("off"), spec={"scaling": {"maxReplicas": 0}})
    assert (await case.run()).trouble is Trouble.REFUSED


async def test_a_bug_ends_the_invocation_too():
    case = Case(RuntimeError("bug"))
    with pytest.raises(RuntimeError):
        await case.run()
    assert case.invocation.ended == [Outcome.ERROR]


def test_the_place_reports_waiting_and_beginning():
    case = Case(None)
    case.place.waits()
    assert case.place.may_begin()
    case.may_attempt = False
    assert not case.place.may_begin()
    assert (case.places, case.place.lost_lease) == ([False, True], True)
