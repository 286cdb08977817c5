"""What follows from an event's end: who hears of it, by which event, and what the record says."""

import base64
import copy
import json
import re
from dataclasses import replace
from typing import Any

import function_constraints
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core import destinations, invocation_record
from kappa_core.destinations import Ending, FollowUps, follow_ups, hops
from kappa_core.event import HTTP_HEADERS, HTTP_METHOD, HTTP_TARGET, Condition, Event, Kind, Lane
from kappa_core.function import Function

ARN = "arn:aws:lambda:us-east-1:000000000000:function:team-a.case"
NOW = 1_795_442_709.2504
SMALLEST = function_constraints.smallest()
FAILURES = [condition for condition in Condition if condition is not Condition.SUCCESS]


def function(**destinations_of: Any) -> Function:
    manifest = copy.deepcopy(SMALLEST)
    manifest["metadata"]["namespace"] = "team-a"
    manifest["spec"]["async"] = destinations_of
    return Function.model_validate(manifest)


def event(payload: bytes = b'{"order": 7}', **changes: Any) -> Event:
    lane = changes.pop("lane", Lane(Kind.INVOCATION, "team-a", "case"))
    return Event(changes.pop("id", "c0ffee"), lane, payload, changes.pop("received_at", NOW - 5), **changes)


def ending(condition: Condition = Condition.SUCCESS, **changes: Any) -> Ending:
    given_fields = {"attempts": 1, "ended_at": NOW, "response": b'{"done": true}'} | changes
    return Ending(condition=condition, **given_fields)


def after(a_function: Function, an_event: Event, an_ending: Ending, **limits: Any) -> FollowUps:
    return follow_ups(a_function, an_event, an_ending, arn=ARN, **limits)


def record(an_event: Event | None = None, an_ending: Ending | None = None, **limits: Any) -> Any:
    return json.loads(invocation_record.record(an_event or event(), an_ending or ending(), arn=ARN, **limits))


# -- the record


def test_the_record_of_a_success_is_lambdas() -> None:
    assert record(an_ending=ending(attempts=2)) == {
        "version": "1.0",
        "timestamp": "2026-11-23T14:05:09.250Z",
        "requestContext": {
            "requestId": "c0ffee",
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:team-a.case:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": 2,
        },
        "requestPayload": {"order": 7},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"done": True},
    }


def test_the_record_of_a_failure_says_which_error() -> None:
    error = {"errorMessage": "no", "errorType": "ValueError", "stackTrace": []}
    failed = ending(
        Condition.RETRIES_EXHAUSTED, attempts=3, response=json.dumps(error).encode(), function_error="Unhandled"
    )
    found = record(an_ending=failed)
    assert found["requestContext"]["condition"] == "RetriesExhausted"
    assert found["requestContext"]["approximateInvokeCount"] == 3
    assert found["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert found["responsePayload"] == error


def test_an_event_that_never_ran_has_no_response() -> None:
    found = record(an_ending=ending(Condition.EVENT_AGE_EXCEEDED, attempts=0, response=None))
    assert list(found) == ["version", "timestamp", "requestContext", "requestPayload"]
    assert found["requestContext"]["approximateInvokeCount"] == 0


def test_a_web_servers_status_is_its_own() -> None:
    found = record(an_ending=ending(Condition.RETRIES_EXHAUSTED, response=b"out of order", status_code=503))
    assert found["responseContext"]["statusCode"] == 503
    assert found["responsePayload"] == "out of order"


@pytest.mark.parametrize(
    ("payload", "embedded"),
    [
        (b"", None),
        (b" \n", None),
        (b"null", None),
        (b' {"a": [1, 2.50]} \n', {"a": [1, 2.5]}),
        ('"grüße"'.encode(), "grüße"),
        ("grüße".encode(), "grüße"),
        (b"not json", "not json"),
        (b"{'a': 1}", "{'a': 1}"),
        (b"1 2", "1 2"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "[Infinity]"),
        (b'{"a": "line\nbreak"}', '{"a": "line\nbreak"}'),
        (b"\xef\xbb\xbf{}", "\ufeff{}"),
        (b"[" * 200_000, "[" * 200_000),
        (b'"quotes" and \\ and \x00', '"quotes" and \\ and \x00'),
    ],
    ids=repr,
)
def test_what_is_json_goes_in_as_it_is_and_what_is_not_as_a_string(payload: bytes, embedded: Any) -> None:
    assert record(event(payload))["requestPayload"] == embedded
    assert record(an_ending=ending(response=payload))["responsePayload"] == embedded


def test_numbers_keep_every_digit() -> None:
    payload = b'{"id": 12345678901234567890123456789012345, "price": 1.10, "long": ' + b"9" * 5000 + b"}"
    assert payload in invocation_record.record(event(payload), ending(), arn=ARN)


def test_bytes_that_are_no_text_are_base64_and_said_to_be() -> None:
    found = record(event(b"\xff\x00"), ending(response=b"\x80"))
    assert base64.b64decode(found["requestPayload"]) == b"\xff\x00"
    assert base64.b64decode(found["responsePayload"]) == b"\x80"
    assert found["kappa"] == {"base64": ["requestPayload", "responsePayload"]}


def test_what_the_caller_knows_of_a_payload_is_believed() -> None:
    assert record(event(b"[1]"), request_is_json=False)["requestPayload"] == "[1]"
    assert record(event(b"[1]"), request_is_json=True)["requestPayload"] == [1]


def test_the_larger_payload_is_left_out_first() -> None:
    request, answer = b'"' + b"q" * 1000 + b'"', b'"' + b"a" * 2000 + b'"'
    whole = record(event(request), ending(response=answer), max_bytes=10_000)
    assert "kappa" not in whole
    smaller = record(event(request), ending(response=answer), max_bytes=2000)
    assert "responsePayload" not in smaller
    assert smaller["requestPayload"] == "q" * 1000
    assert smaller["kappa"] == {"omitted": {"responsePayload": 2002}}
    smallest = record(event(request), ending(response=answer), max_bytes=600)
    assert "requestPayload" not in smallest
    assert smallest["kappa"] == {"omitted": {"responsePayload": 2002, "requestPayload": 1002}}
    assert smallest["responseContext"]["statusCode"] == 200


def test_an_answer_of_which_only_the_beginning_is_known_is_left_out() -> None:
    found = record(an_ending=ending(response=b'{"a": ', response_size=9_000_000))
    assert "responsePayload" not in found
    assert found["kappa"] == {"omitted": {"responsePayload": 9_000_000}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(request=json_values, answer=json_values, spaced=st.booleans())
def test_json_payloads_come_out_as_they_went_in(request: Any, answer: Any, spaced: bool) -> None:
    texts = [json.dumps(value, indent=2 if spaced else None).encode() for value in (request, answer)]
    found = record(event(texts[0]), ending(response=texts[1]))
    assert (found["requestPayload"], found["responsePayload"]) == (request, answer)
    assert "kappa" not in found


@given(request=st.binary(), answer=st.none() | st.binary(), limit=st.integers(500, 3000) | st.none())
def test_any_bytes_make_a_record_within_the_limit(request: bytes, answer: bytes | None, limit: int | None) -> None:
    found = invocation_record.record(event(request), ending(response=answer), arn=ARN, max_bytes=limit)
    read = json.loads(found)
    assert limit is None or len(found) <= limit
    assert ("responseContext" in read) == (answer is not None)
    assert read["requestContext"]["requestId"] == "c0ffee"


@given(st.text())
def test_text_is_json_just_if_a_strict_reader_takes_it(text: str) -> None:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
        expected = True
    except ValueError:
        expected = False
    assert invocation_record.is_json(text) is expected


@given(st.floats(0, 4_000_000_000))
def test_timestamps_have_milliseconds_and_z(seconds: float) -> None:
    text = invocation_record.timestamp(seconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)


# -- what follows


def test_without_destinations_nothing_follows() -> None:
    for condition in Condition:
        assert after(function(), event(), ending(condition)) == FollowUps()


def test_nothing_follows_from_a_delivery() -> None:
    everything = {key: {"http": {"url": "http://a"}} for key in ("onSuccess", "onFailure", "deadLetter")}
    delivery = event(lane=Lane(Kind.DELIVERY, "team-a", "case"))
    assert after(function(**everything), delivery, ending(Condition.RETRIES_EXHAUSTED)) == FollowUps()


def test_success_goes_to_on_success_and_every_failure_to_the_two_others() -> None:
    everything = {key: {"nats": {"subject": key}} for key in ("onSuccess", "onFailure", "deadLetter")}

    def heard(condition: Condition) -> list[str]:
        found = after(function(**everything), event(), ending(condition)).events
        for follower in found:
            destination = destinations.destination_of(follower)
            assert destination.nats is not None
            assert destination.nats.subject == follower.attributes[destinations.PURPOSE]
        return [follower.attributes[destinations.PURPOSE] for follower in found]

    assert heard(Condition.SUCCESS) == ["onSuccess"]
    for condition in FAILURES:
        assert heard(condition) == ["onFailure", "deadLetter"]


def test_a_function_is_invoked_with_the_record() -> None:
    source = event(attributes={"x-amzn-trace-id": "Root=1-2-3", "x-amz-client-context": "e30="})
    (follower,) = after(function(onSuccess={"function": {"name": "audit"}}), source, ending()).events
    assert follower.lane == Lane(Kind.INVOCATION, "team-a", "audit")
    assert json.loads(follower.payload)["responsePayload"] == {"done": True}
    assert follower.received_at == NOW
    assert follower.keyed
    assert hops(follower) == 1
    assert follower.attributes["x-amzn-trace-id"] == "Root=1-2-3"
    assert "x-amz-client-context" not in follower.attributes
    assert destinations.kind_of(follower) == "function"


def test_a_web_server_as_destination_gets_a_cloud_event() -> None:
    (follower,) = after(function(onSuccess={"function": {"name": "audit"}}), event(), ending()).events
    assert (follower.attributes[HTTP_METHOD], follower.attributes[HTTP_TARGET]) == ("POST", "/")
    headers = dict(json.loads(follower.attributes[HTTP_HEADERS]))
    assert headers["ce-id"] == follower.id
    assert headers["ce-source"] == "/v1/namespaces/team-a/functions/case"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("destination", "kind"), [({"nats": {"subject": "orders.done"}}, "nats"), ({"http": {"url": "http://a/b"}}, "http")]
)
def test_other_destinations_wait_in_the_functions_lane_of_deliveries(destination: Any, kind: str) -> None:
    (follower,) = after(function(onFailure=destination), event(), ending(Condition.EVENT_AGE_EXCEEDED)).events
    assert follower.lane == Lane(Kind.DELIVERY, "team-a", "case")
    assert json.loads(follower.attributes[destinations.DESTINATION]) == destination
    assert destinations.kind_of(follower) == kind
    assert hops(follower) == 0


def test_the_headers_of_a_cloud_event() -> None:
    (follower,) = after(function(onSuccess={"http": {"url": "http://a"}}), event(), ending()).events
    assert destinations.cloud_event_headers(follower) == {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": follower.id,
        "ce-source": "/v1/namespaces/team-a/functions/case",
        "ce-type": "run.kappa.event.succeeded",
        "ce-subject": "c0ffee",
        "ce-time": "2026-11-23T14:05:09.250Z",
    }
    for condition in FAILURES:
        (follower,) = after(function(onFailure={"http": {"url": "http://a"}}), event(), ending(condition)).events
        assert destinations.cloud_event_headers(follower)["ce-type"] == "run.kappa.event.failed"


def test_the_same_end_seen_to_twice_gives_the_same_ids() -> None:
    both = function(onFailure={"http": {"url": "http://a"}}, deadLetter={"http": {"url": "http://a"}})
    first = after(both, event(), ending(Condition.RETRIES_EXHAUSTED, ended_at=NOW))
    again = after(both, event(), ending(Condition.RETRIES_EXHAUSTED, ended_at=NOW + 60, response=None))
    ids = [follower.id for follower in first.events]
    assert ids == [follower.id for follower in again.events]
    assert len({*ids, "c0ffee"}) == 3


def test_a_redriven_events_second_end_is_told_as_well() -> None:
    failing = function(onFailure={"http": {"url": "http://a"}})
    first = after(failing, event(received_at=NOW - 100), ending(Condition.RETRIES_EXHAUSTED)).events
    second = after(failing, event(received_at=NOW - 10), ending(Condition.RETRIES_EXHAUSTED)).events
    assert first[0].id != second[0].id


def test_a_chain_of_functions_is_cut() -> None:
    loop = function(onSuccess={"function": {"name": "case"}})
    current, ran = event(), 0
    while True:
        found = after(loop, current, ending())
        ran += 1
        if not found.events:
            break
        (current,) = found.events
    assert ran == 1 + destinations.MAX_HOPS
    (dead,) = found.cut
    assert dead.condition is Condition.RECURSIVE_INVOCATION
    assert (dead.event.lane, dead.died_at, dead.attempts) == (Lane(Kind.INVOCATION, "team-a", "case"), NOW, 0)
    assert "team-a/case" in dead.error["errorMessage"]


def test_a_chain_that_is_cut_still_tells_its_other_destinations() -> None:
    source = event(attributes={destinations.HOPS: str(destinations.MAX_HOPS)})
    both = function(onFailure={"function": {"name": "case"}}, deadLetter={"nats": {"subject": "dead"}})
    found = after(both, source, ending(Condition.RETRIES_EXHAUSTED))
    assert len(found.events) == len(found.cut) == 1


def test_a_chain_that_echoes_stays_within_what_a_function_takes() -> None:
    loop = function(onSuccess={"function": {"name": "case"}})
    current = event(b'"' + b"x" * 500_000 + b'"')
    while found := after(
        loop, current, ending(response=current.payload), request_is_json=True, response_is_json=True
    ).events:
        (current,) = found
        assert len(current.payload) <= 6 * 1024 * 1024
    assert hops(current) == destinations.MAX_HOPS


def test_the_queues_limit_counts_where_it_is_lower() -> None:
    echoing = function(onSuccess={"http": {"url": "http://a"}})
    (follower,) = after(echoing, event(), ending(response=b"9" * 5000), max_bytes=2000).events
    assert json.loads(follower.payload)["kappa"] == {"omitted": {"responsePayload": 5000}}


@pytest.mark.parametrize("text", ["", "-1", "many", "٣", "9" * 5000, "1.5"])
def test_hops_that_cannot_be_read_end_the_chain(text: str) -> None:
    assert hops(event(attributes={destinations.HOPS: text})) == destinations.MAX_HOPS


def test_a_redriven_delivery_goes_to_where_its_function_says_now() -> None:
    (wrong,) = after(function(onSuccess={"http": {"url": "http://wrong"}}), event(), ending()).events

    def address_after(changed: Function | None) -> Any:
        mended = destinations.for_redrive(wrong, changed)
        assert (mended.id, mended.payload, mended.lane) == (wrong.id, wrong.payload, wrong.lane)
        return json.loads(mended.attributes[destinations.DESTINATION])

    assert address_after(function(onSuccess={"http": {"url": "http://right"}})) == {"http": {"url": "http://right"}}
    assert address_after(function(onSuccess={"nats": {"subject": "right"}})) == {"nats": {"subject": "right"}}
    for unfitting in ({}, {"onFailure": {"http": {"url": "http://b"}}}, {"onSuccess": {"function": {"name": "b"}}}):
        assert address_after(function(**unfitting)) == {"http": {"url": "http://wrong"}}
    assert address_after(None) == {"http": {"url": "http://wrong"}}


def test_a_redriven_invocation_begins_a_new_chain() -> None:
    looped = event(attributes={destinations.HOPS: "17", "x-amzn-trace-id": "Root=1"})
    redriven = destinations.for_redrive(looped, None)
    assert hops(redriven) == 0
    assert redriven.attributes == {"x-amzn-trace-id": "Root=1"}
    assert (redriven.id, redriven.payload) == (looped.id, looped.payload)


def test_a_redriven_delivery_has_another_id_and_is_the_same_message() -> None:
    (first,) = after(function(onSuccess={"http": {"url": "http://a"}}), event(), ending()).events
    redriven = replace(first, id="another", attributes={**first.attributes, "redrive-of": first.id})
    assert destinations.message_id(redriven) == destinations.message_id(first) == first.id
    assert destinations.cloud_event_headers(redriven) == destinations.cloud_event_headers(first)


@pytest.mark.parametrize("text", [None, "", "null", "{}", '{"http": {}}', "{", '{"carrier": {"pigeon": 1}}'])
def test_a_destination_that_cannot_be_read_is_an_error(text: str | None) -> None:
    attributes = {} if text is None else {destinations.DESTINATION: text}
    with pytest.raises(ValueError):
        destinations.destination_of(event(lane=Lane(Kind.DELIVERY, "a", "b"), attributes=attributes))


def test_a_newer_gateways_destination_is_read_without_what_is_new() -> None:
    text = '{"http": {"url": "http://a", "shiny": 1}, "shinier": 2}'
    found = destinations.destination_of(event(attributes={destinations.DESTINATION: text}))
    assert found.http is not None
    assert found.http.url == "http://a"
