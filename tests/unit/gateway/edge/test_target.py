"""What a function URL's path says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.edge.target import Target


@pytest.mark.parametrize(
    ("path", "namespace", "name", "rest", "prefix"),
    [
        (b"/fn/team-a/hello", "team-a", "hello", b"/", b"/fn/team-a/hello"),
        (b"/fn/team-a/hello/", "team-a", "hello", b"/", b"/fn/team-a/hello"),
        (b"/fn/team-a/hello/a%20b/", "team-a", "hello", b"/a%20b/", b"/fn/team-a/hello"),
        (b"/fn/team-a/hello//x", "team-a", "hello", b"//x", b"/fn/team-a/hello"),
        (b"/fn/team%2Da/hel%6Co/x", "team-a", "hello", b"/x", b"/fn/team%2Da/hel%6Co"),
        (b"/fn/team-a", "team-a", "", b"/", b"/fn/team-a/"),
        (b"/fn/", "", "", b"/", b"/fn//"),
    ],
)
def test_its_parts(path, namespace, name, rest, prefix):
    target = Target(path)
    assert (target.namespace, target.name, target.path, target.prefix) == (namespace, name, rest, prefix)


@given(st.from_regex(rb"[a-z]{1,5}", fullmatch=True), st.from_regex(rb"[a-z]{1,5}", fullmatch=True), st.binary())
def test_what_the_function_sees_is_as_it_came(namespace, name, rest):
    assert Target(b"/fn/%b/%b/%b" % (namespace, name, rest)).path == b"/" + rest
