"""Function URLs: requests as events and answers as responses, by example and by property."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.errors import BadAnswer
from kappa_core.function_url import HttpRequest, from_answer, query_parameters, to_payload

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20).map(
    lambda text: "".join(char for char in text if not 0x7F <= ord(char) <= 0x9F)
)


def request(**changes):
    values = {
        "method": "GET",
        "path": "/a",
        "query": "",
        "headers": [],
        "body": b"",
        "protocol": "HTTP/1.1",
        "source_ip": "192.0.2.1",
        "domain": "fn.example.com",
        "request_id": "id-1",
        "function": "hello",
        "time": 1583348638.390,
    }
    return HttpRequest(**{**values, **changes})


def test_an_event_has_lambdas_shape():
    event = to_payload(
        request(
            method="POST",
            query="a=1&a=2&b=%20x",
            headers=[
                (b"user-agent", b"test"),
                (b"x-multi", b"1"),
                (b"x-multi", b"2"),
                (b"cookie", b"c=1; d=2"),
                (b"content-type", b"application/json; charset=utf-8"),
            ],
            body=b'{"k":1}',
        )
    )
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a",
        "rawQueryString": "a=1&a=2&b=%20x",
        "cookies": ["c=1", "d=2"],
        "headers": {"user-agent": "test", "x-multi": "1,2", "content-type": "application/json; charset=utf-8"},
        "queryStringParameters": {"a": "1,2", "b": " x"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "hello",
            "domainName": "fn.example.com",
            "domainPrefix": "fn",
            "http": {
                "method": "POST",
                "path": "/a",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "id-1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1583348638390,
        },
        "body": '{"k":1}',
        "isBase64Encoded": False,
    }


def test_what_is_empty_is_left_out():
    event = to_payload(request())
    assert not {"body", "cookies", "queryStringParameters"} & set(event)
    assert event["isBase64Encoded"] is False


@pytest.mark.parametrize(
    ("content_type", "body", "is_base64"),
    [
        (b"text/plain", b"x", False),
        (b"text/plain", b"\xff", True),
        (b"application/vnd.api+json", b"{}", False),
        (b"image/svg+xml", b"<svg/>", True),
        (b"application/atom+xml", b"<a/>", False),
        (b"image/png", b"abc", True),
        (b"application/x-www-form-urlencoded", b"a=1", True),
        (b"", b"abc", False),
        (b"", b"\x89PNG", True),
    ],
)
def test_bodies_travel_as_text_or_base64(content_type, body, is_base64):
    event = to_payload(request(headers=[(b"content-type", content_type)] if content_type else [], body=body))
    assert event["isBase64Encoded"] is is_base64
    assert (base64.b64decode(event["body"]) if is_base64 else event["body"].encode()) == body


@given(
    st.binary(max_size=100),
    st.lists(st.tuples(TOKEN.map(str.encode), st.binary(max_size=20)), max_size=6),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40),
)
def test_every_request_becomes_an_event_that_is_json_and_keeps_the_body(body, headers, query):
    event = json.loads(json.dumps(to_payload(request(body=body, headers=headers, query=query))))
    got = event.get("body", "")
    assert (base64.b64decode(got) if event["isBase64Encoded"] else got.encode()) == body
    assert event["rawQueryString"] == query
    assert all(name == name.lower() for name in event["headers"])


def test_parameters_keep_blanks_and_join_repeats():
    assert query_parameters("a=&b&a=1&c=%C3%A9+x") == {"a": ",1", "b": "", "c": "é x"}


def header(response, name):
    return [value for key, value in response.headers if key == name.encode()]


def test_an_object_with_a_status_code_is_a_response():
    response = from_answer(
        json.dumps(
            {
                "statusCode": 302,
                "headers": {
                    "Location": "/x",
                    "X-Number": 5,
                    "X-Flag": True,
                    "Content-Length": "99",
                    "Connection": "close",
                },
                "cookies": ["a=1; Secure", "b=2"],
                "body": base64.b64encode(b"\x00\xff").decode(),
                "isBase64Encoded": True,
            }
        ).encode()
    )
    assert (response.status, response.body) == (302, b"\x00\xff")
    assert header(response, "location") == [b"/x"]
    assert header(response, "x-number") == [b"5"]
    assert header(response, "x-flag") == [b"true"]
    assert header(response, "set-cookie") == [b"a=1; Secure", b"b=2"]
    assert header(response, "content-length") == header(response, "connection") == []


@pytest.mark.parametrize("answer", [b'"text"', b"null", b"5", b"[1,2]", b'{"body":"x"}', b'{"a":1}'])
def test_anything_else_is_a_json_body(answer):
    response = from_answer(answer)
    assert (response.status, response.body) == (200, answer)
    assert header(response, "content-type") == [b"application/json"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"statusCode":99}', "statusCode 99"),
        ('{"statusCode":true}', "statusCode"),
        ('{"statusCode":"ok"}', "statusCode"),
        ('{"statusCode":200,"body":{}}', "json.dumps"),
        ('{"statusCode":200,"body":"%%%","isBase64Encoded":true}', "not base64"),
        ('{"statusCode":200,"headers":["a"]}', "headers"),
        ('{"statusCode":200,"headers":{"a":"x\\r\\ny: z"}}', "'a'"),
        ('{"statusCode":200,"headers":{"a b":"x"}}', "'a b'"),
        ('{"statusCode":200,"headers":{"a":["x"]}}', "'a'"),
        ('{"statusCode":200,"cookies":"a=1"}', "cookies"),
        ('{"statusCode":200,"cookies":["a=1\\nb: c"]}', "cookies"),
        ("{nonsense", "not JSON"),
    ],
)
def test_what_cannot_be_a_response_is_said(answer, said):
    with pytest.raises(BadAnswer, match=said):
        from_answer(answer.encode())


@given(
    st.integers(200, 599),
    st.dictionaries(TOKEN.map(lambda name: f"x-{name}"), VALUE, max_size=5),
    st.binary(max_size=100),
)
def test_what_a_function_answers_comes_out_as_it_is(status, headers, body):
    answer = {
        "statusCode": status,
        "headers": headers,
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
    response = from_answer(json.dumps(answer).encode())
    assert (response.status, response.body) == (status, body)
    for name, value in headers.items():
        assert header(response, name) == [value.encode("latin-1")]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["statusCode", "body", "headers", "cookies", "isBase64Encoded"]), x)
        ),
    )
)
def test_no_answer_breaks_the_gateway(value):
    try:
        response = from_answer(json.dumps(value).encode())
    except BadAnswer:
        return
    assert 200 <= response.status <= 599
    for name, content in response.headers:
        assert b"\n" not in name + content
