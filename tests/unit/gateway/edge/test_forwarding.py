"""What a proxy does to headers, and whose address it believes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.edge.forwarding import HOP_BY_HOP, end_to_end, forwarded, header, source_ip


def scope(*headers, client=("192.0.2.1", 1), scheme="http"):
    return {"headers": list(headers), "client": client, "scheme": scheme}


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_headers_of_the_connection_end_here(name):
    assert end_to_end([(name, b"x"), (b"x-own", b"1")]) == [(b"x-own", b"1")]


def test_so_do_those_that_connection_names():
    headers = [(b"connection", b"X-Mine, close"), (b"x-mine", b"1"), (b"connection", b"b"), (b"b", b"2"), (b"c", b"3")]
    assert end_to_end(headers) == [(b"c", b"3")]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"set-cookie", b"te"]), st.binary(max_size=3))))
def test_all_others_go_on_in_their_order(headers):
    assert end_to_end(headers) == [(name, value) for name, value in headers if name != b"te"]


@pytest.mark.parametrize(
    ("trusted", "said", "expected"),
    [
        (0, [b"203.0.113.9"], "192.0.2.1"),
        (1, [], "192.0.2.1"),
        (1, [b"203.0.113.9"], "203.0.113.9"),
        (1, [b"198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (2, [b"198.51.100.1", b"203.0.113.9"], "198.51.100.1"),
        (5, [b"198.51.100.1, 203.0.113.9"], "198.51.100.1"),
        (1, [b" , "], "192.0.2.1"),
    ],
)
def test_the_address_that_the_outermost_trusted_proxy_saw(trusted, said, expected):
    assert source_ip(scope(*((b"x-forwarded-for", value) for value in said)), trusted) == expected


def test_a_peer_without_an_address():
    assert source_ip(scope(client=None), 0) == ""


@pytest.mark.parametrize(
    ("trust", "scheme", "proto", "host"),
    [
        (False, "http", "http", "own.example.com"),
        (False, "wss", "https", "own.example.com"),
        (True, "http", "https", "said.example.com"),
    ],
)
def test_what_a_pod_learns_of_the_way_before(trust, scheme, proto, host):
    given_headers = [
        (b"host", b"own.example.com"),
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"said.example.com"),
    ]
    lines = forwarded(scope(*given_headers, scheme=scheme), b"/fn/a/b", trust=trust).decode().splitlines()
    assert lines == [
        "x-forwarded-for: 203.0.113.9, 192.0.2.1",
        f"x-forwarded-proto: {proto}",
        f"x-forwarded-host: {host}",
        "x-forwarded-prefix: /fn/a/b",
    ]


def test_the_first_value_of_a_header():
    assert header([(b"a", b"1"), (b"a", b"2")], b"a") == b"1"
    assert header([], b"a") == b""
