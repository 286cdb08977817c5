"""What a pool pod takes for a gateway's word, and what not."""

import hashlib
import hmac
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_core import phases, specialize, wire
from kappa_core.agent_config import POOL, AgentConfig, PoolConfig
from kappa_core.specialize import Malformed, Received, Refused, Specialization

VALUES = st.text(st.characters(exclude_characters="\0"), max_size=40)
NAMES = st.text(st.characters(exclude_characters="\0="), min_size=1, max_size=40)
NOW = 1_760_000_000.0
STARTED = NOW - 3600


def sign(message: bytes) -> bytes:
    return hmac.digest(b"a key", message, "sha512")


def verify(message: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(sign(message), signature)


def specialization(**values) -> Specialization:
    config = AgentConfig(function_name="hello", handler="main.handler", code_inline="x = 'ü'\r\n", timeout=3.5)
    return Specialization(
        **{
            "pod_uid": "uid-1",
            "request_id": "r-1",
            "spec_hash": "abc",
            "issued_at": NOW,
            "config": config,
            "env": {"GREETING": "hi", "UMLAUT": "ü\n"},
            **values,
        }
    )


def encode(code: bytes = b"PK..", payload: bytes = b'{"name": "world"}', **values) -> bytes:
    return specialize.encode(specialization(**values), code=code, payload=payload, sign=sign)


def read(body: bytes, now: float = NOW, pod_uid: str = "uid-1", agent_started: float = STARTED) -> Received:
    return specialize.read(body, pod_uid=pod_uid, now=now, agent_started=agent_started, verify=verify)


def test_what_is_written_is_read():
    received = read(encode())
    assert received.specialization == specialization()
    assert received.code == b"PK.."
    assert received.payload == b'{"name": "world"}'


@given(code=st.binary(max_size=50), payload=st.binary(max_size=50), env=st.dictionaries(NAMES, VALUES))
def test_any_code_event_and_variables(code, payload, env):
    received = read(encode(code, payload, env=env))
    assert (received.code, received.payload, received.specialization.env) == (code, payload, env)


@settings(max_examples=300)
@given(st.data())
def test_nothing_of_it_can_be_altered(data):
    body = bytearray(encode())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Malformed, Refused)):
        read(bytes(body))


@given(st.integers(0, 10_000))
def test_a_piece_of_it_is_none(length):
    body = encode()
    with pytest.raises((Malformed, Refused)):
        read(body[: length % len(body)])
    with pytest.raises(Refused, match="lengths"):
        read(body + b"x")


@given(st.binary(max_size=300))
def test_anything_else_is_none(body):
    with pytest.raises((Malformed, Refused)):
        read(body)


def test_bytes_cannot_move_between_code_and_event():
    body = encode(b"ab", b"cd")
    assert body.endswith(b"abcd")
    with pytest.raises(Refused, match="not what was signed") as refused:
        read(body[:-4] + b"cdab")
    assert refused.value.reason == wire.REFUSED_ALTERED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pod_uid": "uid-2"}, wire.REFUSED_OTHER_POD),
        ({"now": NOW + 60.5}, wire.REFUSED_STALE),
        ({"now": NOW - 60.5}, wire.REFUSED_STALE),
        ({"agent_started": NOW + 5.5, "now": NOW + 6}, wire.REFUSED_STALE),
    ],
)
def test_it_is_for_one_pod_and_one_minute(changes, reason):
    with pytest.raises(Refused) as refused:
        read(encode(), **changes)
    assert refused.value.reason == reason


@pytest.mark.parametrize("issued_at", [float("nan"), float("inf"), -float("inf")])
def test_no_time_at_all(issued_at):
    with pytest.raises(Refused) as refused:
        read(encode(issued_at=issued_at))
    assert refused.value.reason == wire.REFUSED_STALE


def test_a_clock_that_is_a_little_off_is_no_matter():
    assert read(encode(), now=NOW + 59, agent_started=NOW + 4).payload


@pytest.mark.parametrize("signed", [b"", b"[]", b"{}", b'"text"', b'{"code": 1}', b"\xff", b'{"podUid": {}}'])
def test_signed_nonsense_is_named(signed):
    signature = sign(specialize.CONTEXT + signed)
    body = len(signed).to_bytes(4, "big") + signed + len(signature).to_bytes(2, "big") + signature
    with pytest.raises(Malformed, match="signed part"):
        read(body)


@pytest.mark.parametrize("env", [{"A": "\0"}, {"A=B": "c"}, {"": "x"}, {"A\0": "x"}])
def test_no_environment_holds_these(env):
    with pytest.raises(Malformed, match="env"):
        read(encode(env=env))


def test_a_signature_of_something_else_is_none():
    signed = b'{"podUid": "uid-1"}'
    signature = sign(signed)
    body = len(signed).to_bytes(4, "big") + signed + len(signature).to_bytes(2, "big") + signature
    with pytest.raises(Refused) as refused:
        read(body)
    assert refused.value.reason == wire.REFUSED_SIGNATURE


def test_what_is_too_large_is_not_sent():
    with pytest.raises(ValueError, match="pool pod"):
        encode(code=b"x" * (specialize.MAX_CODE_BYTES + 1))
    with pytest.raises(ValueError, match="pool pod"):
        encode(env={"A": "x" * specialize.MAX_SIGNED_BYTES})


def test_no_value_of_a_variable_is_shown():
    assert "hi" not in repr(specialization(env={"GREETING": "hi"})).replace("GREETING", "")


@pytest.mark.parametrize("name", ["PYTHONPATH", "LC_ALL", "LANG", "LD_PRELOAD", "MALLOC_ARENA_MAX", "OPENSSL_CONF"])
def test_what_an_interpreter_reads_when_it_starts(name):
    assert specialize.is_read_at_start(name)


@pytest.mark.parametrize("name", ["GREETING", "TZ", "PATH", "AWS_REGION", "MY_PYTHON", "LANGUAGES", "HTTPS_PROXY"])
def test_what_it_reads_later(name):
    assert not specialize.is_read_at_start(name)


def test_hashes_are_as_others_make_them():
    signed = encode(b"zip", b"")[4:]
    assert hashlib.sha256(b"zip").hexdigest().encode() in signed


def test_phases_are_read_and_nothing_else_is():
    assert phases.read("verify=0.11,code=0.40,init=2.20,run=0.90") == {
        "verify": 0.11,
        "code": 0.4,
        "init": 2.2,
        "run": 0.9,
    }
    assert phases.read("run=1, other=2,init=x,code=-1,verify=nan") == {"run": 1.0}
    assert phases.read("") == {}


def test_a_pools_config_goes_through_the_environment():
    config = PoolConfig(pool_public_key="a2V5", pod_uid="u", runtime="python3.13", port=0, parent_death=True)
    env = config.to_env()
    assert env[POOL] == "1"
    assert env["KAPPA_POOL_PUBLIC_KEY"] == "a2V5"
    assert PoolConfig.from_env(env) == config
    with pytest.raises(ValueError, match="KAPPA_POOL_PUBLIC_KEY is not set"):
        PoolConfig.from_env({POOL: "1"})


def test_what_is_the_pods_stays_the_pods():
    own = PoolConfig(pool_public_key="a2V5", task_root="/mine", port=1, pod_name="p", runtime="python3.13").own()
    config = AgentConfig(function_name="hello", task_root="/other", port=2, timeout=7.0).replace(**own)
    assert (config.task_root, config.port, config.pod_name) == ("/mine", 1, "p")
    assert (config.function_name, config.timeout) == ("hello", 7.0)


def test_nothing_heavy_is_imported():
    heavy = "{'typing', 'dataclasses', 'enum', 'asyncio', 'pydantic'} & set(sys.modules)"
    code = f"import sys; before = set(sys.modules); import kappa_core.agent_config; print({heavy} - before)"
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "set()"
