"""Function names as Lambda's clients write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.agent_config import arn
from kappa_core.errors import FunctionNotFound, InvalidRequest
from kappa_core.function_name import FunctionName, parse

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(LABEL, LABEL)
def test_an_arn_reads_back_to_its_function(namespace, name):
    wanted = FunctionName(namespace, name)
    text = arn("eu-west-1", "123456789012", namespace, name)
    assert parse(text) == wanted
    assert parse(f"{text}:$LATEST") == wanted
    assert parse(f"{namespace}.{name}") == wanted


@given(st.text(max_size=300))
def test_no_text_breaks_it(text):
    try:
        parsed = parse(text)
    except (InvalidRequest, FunctionNotFound):
        return
    assert parsed.name in text


def test_the_default_namespace():
    assert parse("hello", default_namespace="team") == FunctionName("team", "hello")
    assert parse("hello", qualifier="$LATEST") == FunctionName("default", "hello")
    assert parse("123456789012:function:hello") == FunctionName("default", "hello")
    assert parse("arn:aws-cn:lambda:cn-north-1:123456789012:function:a.b") == FunctionName("a", "b")


@pytest.mark.parametrize(
    "text", ["", "Hello", "a.b.c", "a/b", "a b", "-a", "a-", ".a", "a.", "é", "x" * 64, "a:b:c", "hello\n"]
)
def test_what_can_be_no_name(text):
    with pytest.raises(InvalidRequest) as refused:
        parse(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(("text", "qualifier"), [("hello:prod", None), ("hello:1", None), ("hello", "prod")])
def test_versions_and_aliases_do_not_exist(text, qualifier):
    with pytest.raises(FunctionNotFound, match=r"\$LATEST"):
        parse(text, qualifier=qualifier)


def test_two_different_qualifiers():
    with pytest.raises(InvalidRequest, match="Qualifier"):
        parse("hello:$LATEST", qualifier="prod")
