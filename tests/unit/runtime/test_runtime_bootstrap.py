"""What the agent's own loop reads and writes is what awslambdaric reads and writes, or it leaves it to awslambdaric."""

import collections
import decimal
import enum
import json
from typing import Any

import awslambdaric
import pytest
from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kappa_runtime import bootstrap

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
KEYS = st.text(st.characters(exclude_categories=())) | st.integers() | st.floats() | st.booleans() | st.none()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner), max_leaves=20
)
Point = collections.namedtuple("Point", "x y")


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    pass


def theirs(runtime: str, monkeypatch: pytest.MonkeyPatch) -> LambdaMarshaller:
    monkeypatch.setenv("AWS_EXECUTION_ENV", runtime)
    return LambdaMarshaller()


def test_the_installed_version_is_known() -> None:
    """A new one: look at what changed in its bootstrap, client, context and marshaller, then add it to KNOWN_VERSIONS.
    Until then functions start without the loop, right but 20 ms later."""
    assert awslambdaric.__version__ in bootstrap.KNOWN_VERSIONS


@pytest.mark.parametrize("runtime", bootstrap.ENSURE_ASCII)
def test_plain_values_are_written_as_awslambdaric_writes_them(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marshaller = theirs(runtime, monkeypatch)
    encode = bootstrap.encoder(bootstrap.ENSURE_ASCII[runtime])

    @given(PLAIN)
    @example("\u2028 \u2029 \x7f \ud800 \U0001f600 </script>")
    @example({2: 1e400, "b": -0.0, None: float("nan"), True: 10**400})
    def alike(value: Any) -> None:
        assert bootstrap.dumps(value, encode) == marshaller.marshal_response(value)[0]

    alike()


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2),
        [Point(1, 2)],
        {"a": collections.OrderedDict(b=1)},
        Level.HIGH,
        {Name("a"): 1},
        Name("a"),
        decimal.Decimal("1.5"),
        b"bytes",
        {b"a": 1},
        [bytearray(b"x")],
        {1, 2},
        1j,
        ...,
        10**5000,
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_value_is_left_to_awslambdaric(value: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017 - of any kind
        bootstrap.dumps(value, bootstrap.encoder(ensure_ascii=False))


def test_a_value_that_contains_itself_is_left_to_awslambdaric() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(ValueError, match="deep"):
        bootstrap.dumps(ring, bootstrap.encoder(ensure_ascii=False))


def read_alike(body: bytes) -> None:
    try:
        value = bootstrap.loads(body)
    except Exception:  # awslambdaric reads it, or says why not
        return
    expected = LambdaMarshaller().unmarshal_request(body)
    assert repr(value) == repr(expected), "the same types, too"


@given(PLAIN, st.booleans(), st.sampled_from(["", " ", "\n\t\r "]))
def test_what_is_read_is_what_awslambdaric_reads(value: Any, ascii_only: bool, space: str) -> None:
    text = space + json.dumps(value, ensure_ascii=ascii_only) + space
    read_alike(text.encode(errors="surrogatepass"))


@given(st.binary() | st.text('{}[]",:0123456789.eE+-\\u d8nulltrefasNIity\x00\x1f\ufeff\xa0').map(str.encode))
@example(b"\xef\xbb\xbf{}")
@example(b"")
@example(b'{"a": 1} x')
@example(b"[NaN, Infinity, -Infinity]")
@example(b'{"a": 1, "a": 2}')
@example(b'"\\ud83d\\ude00 \\ud83d"')
@example(b'"\t"')
@example(b"\xa0[]")
@example(b"9" * 5000)
@example(b"[" * 100_000)
def test_what_is_no_json_is_left_to_awslambdaric(body: bytes) -> None:
    read_alike(body)


@given(PLAIN)
def test_json_is_read(value: Any) -> None:
    """Lest everything be left to it."""
    body = json.dumps(value)
    assume("NaN" not in body and "Infinity" not in body)
    assert repr(bootstrap.loads(body.encode())) == repr(json.loads(body))


@pytest.mark.parametrize(
    ("env", "files", "served"),
    [
        ({}, [], True),
        ({}, ["main.py", "lib", "README"], True),
        ({}, ["json.py"], False),
        ({}, ["simplejson"], False),
        ({}, ["logging"], False),
        ({"AWS_LAMBDA_LOG_FORMAT": "JSON"}, [], False),
        ({"AWS_LAMBDA_LOG_LEVEL": "DEBUG"}, [], False),
        ({"AWS_EXECUTION_ENV": "AWS_Lambda_python3.15"}, [], False),
        ({"AWS_EXECUTION_ENV": ""}, [], False),
    ],
)
def test_which_functions_begin_without_awslambdaric(
    env: dict[str, str], files: list[str], served: bool, tmp_path: Any
) -> None:
    for name in files:
        (tmp_path / name).mkdir()
    assert bootstrap.serves({"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"} | env, str(tmp_path)) is served


def test_another_version_of_awslambdaric_does_everything_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(awslambdaric, "__version__", "4.9.0")
    assert not bootstrap.serves({"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"}, str(tmp_path))
