"""The tokenizer for large bodies says what Python's own parser says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.errors import InvalidRequestContent
from kappa_gateway import json_check

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


def accepts(text):
    try:
        for _ in json_check.scan(text):
            pass
    except ValueError:
        return False
    return True


def strict(text):
    try:
        json.loads(text, parse_constant=json_check._no_constant)
    except ValueError:
        return False
    return True


@given(VALUES, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_every_json_is_taken(value, indent, ascii_only):
    assert accepts(json.dumps(value, indent=indent, ensure_ascii=ascii_only))


@given(VALUES, st.data())
def test_what_is_damaged_is_judged_as_pythons_parser_does(value, data):
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    damaged = data.draw(
        st.sampled_from([text[:at], text[:at] + text[at + 1 :], text[:at] + data.draw(st.characters()) + text[at:]])
    )
    assert accepts(damaged) == strict(damaged)


@given(st.text(alphabet='{}[],:"\\ntruefalse0123456789.eE+-u \n\x00', max_size=12))
def test_fragments_are_judged_as_pythons_parser_does(text):
    assert accepts(text) == strict(text)


async def test_a_large_body_gives_way_and_errors_say_where():
    good = json.dumps([{"id": number, "tags": ["a", None, 1.5]} for number in range(20000)]).encode()
    steps = sum(1 for _ in json_check.scan(good.decode()))
    assert steps > 20
    await json_check.check(good)
    with pytest.raises(InvalidRequestContent, match=r"json.*line 1"):
        await json_check.check(good[:-1] + b",]")
    with pytest.raises(InvalidRequestContent, match="utf-8"):
        await json_check.check(b'"\xff"')
    with pytest.raises(InvalidRequestContent, match="Nested"):
        await json_check.check(b"[" * 100_000)
    with pytest.raises(InvalidRequestContent):
        await json_check.check(b"[" * 10_000)
    with pytest.raises(InvalidRequestContent, match="NaN"):
        await json_check.check(b"[NaN]")
