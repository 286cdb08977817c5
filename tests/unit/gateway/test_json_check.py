"""The check of JSON bodies gives the verdict of Python's own parser, and has one limit of depth on every Python."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.errors import InvalidRequestContent
from kappa_gateway import json_check
from kappa_gateway.json_check import MAX_DEPTH

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text(alphabet='"\\[]{}u\ud83d\ude00', max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


def expected(payload: bytes) -> bool:
    """Python's verdict, by the rules that `kappa_core.invocation_record` has too."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(payload.decode(), parse_constant=refuse, parse_int=str, parse_float=str)
    except ValueError:
        return False
    return True


def nested(levels: int) -> bytes:
    """Arrays and objects in turn, and brackets in strings that count for nothing."""
    opened, closed = b'{"[\\"{": ["[",', b', "]\\\\"]}'
    return opened * (levels // 2) + b"[" * (levels % 2) + b'"["' + b"]" * (levels % 2) + closed * (levels // 2)


@given(VALUES, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_every_json_is_taken(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert json_check.is_json(text.encode(errors="replace"))


@given(VALUES, st.data())
def test_what_is_damaged_is_judged_as_pythons_parser_does(value, data):
    payload = json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode(errors="replace")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        new = data.draw(st.sampled_from(list(b'{}[],:"\\ntruefalse0123456789.eE+-u \n\x00')) | st.integers(0, 255))
        payload = data.draw(
            st.sampled_from(
                [payload[:at], payload[:at] + payload[at + 1 :], payload[:at] + bytes([new]) + payload[at:]]
            )
        )
    assert json_check.is_json(payload) == expected(payload)


@given(st.text(alphabet='{}[],:"\\ntruefalse0123456789.eE+-u \n\x00', max_size=12))
def test_fragments_are_judged_as_pythons_parser_does(text):
    assert json_check.is_json(text.encode()) == expected(text.encode())


@given(st.text(alphabet='\\"udDC89aefEg0', max_size=16))
def test_surrogates_are_judged_as_pythons_parser_does(text):
    payload = f'["{text}"]'.encode()
    assert json_check.is_json(payload) == expected(payload)


@pytest.mark.parametrize("payload", [b"1" * 5000, b"-1e99999", b'"\\ud800"', b'{"\\udc00\\\\ud800": 1}', b" [] \r\n\t"])
def test_texts_that_parsers_disagree_about_and_rfc_8259_allows(payload):
    json_check.check(payload)


def test_errors_say_what_and_where():
    good = json.dumps([{"id": number, "tags": ["a", None, 1.5]} for number in range(20000)]).encode()
    json_check.check(good)
    for bad, said in [
        (good[:-1] + b",]", rf"^Could not parse request body into json: .*byte {len(good)}\b"),
        (b'"\xff"', "utf-8"),
        (b"[NaN]", r"byte 1\b"),
        (b'"\xed\xa0\x80"', "utf-8"),
        (b"", "truncated"),
    ]:
        with pytest.raises(InvalidRequestContent, match=said):
            json_check.check(bad)


@pytest.mark.parametrize("levels", [1, 2, 499, 500, 501, 900, 950, 990, MAX_DEPTH - 1, MAX_DEPTH])
def test_a_text_may_have_so_many_levels(levels):
    json_check.check(b"[" * levels + b"]" * levels)
    json_check.check(nested(levels))
    json_check.check(b"[" + b",".join([nested(levels - 1)] * 3) + b"]")


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, MAX_DEPTH + 2, 2 * MAX_DEPTH, 100_000])
def test_a_text_with_more_levels_is_refused_with_its_own_message(levels):
    said = re.escape("Could not parse request body into json: it is nested deeper than 1000 levels")
    for text in [
        b"[" * levels + b"]" * levels,
        b"[" * levels,
        nested(levels),
        b"[" + b",".join([b"[]", nested(2), nested(levels - 1), nested(3)]) + b"]",
        b"[" * (levels - 2) + b",".join([b"[[]]"] * 3) + b"]" * (levels - 2),
    ]:
        with pytest.raises(InvalidRequestContent, match=f"^{said}$"):
            json_check.check(text)


def test_width_and_brackets_in_strings_are_not_depth():
    json_check.check(json.dumps([[[[[]]]]] * 3000).encode())
    json_check.check(json.dumps(["[" * 5000, '"[' * 5000, "\\[" * 5000, '{"\\' * 5000]).encode())


@given(VALUES, st.integers(MAX_DEPTH - 12, MAX_DEPTH + 3))
def test_the_limit_is_exact(value, levels):
    def depth(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    payload = b"[" * levels + json.dumps([value] * 3).encode() + b"]" * levels
    assert json_check.is_json(payload) == (levels + 1 + depth(value) <= MAX_DEPTH)
