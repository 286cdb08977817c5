"""Requests that are passed on: the head with its proof, who is believed, and the connections to other gateways."""

import pytest
from gateway_fakes import KEY, FakePod, VirtualTime, response, until
from hypothesis import example, given
from hypothesis import strategies as st

from kappa_core import wire
from kappa_gateway.invoke.peers import NOTIFY_TIMEOUT, PROOF_AGE, Peers
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.pods.warm.signing import Signer

TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
NOW = 1_700_000_000.0


def peers(now=NOW, key=KEY):
    return Peers(None, Signer(key), 9001, lambda: now)


def head_of(sender, request_id="id-1", function=None):
    function = function or FunctionState("default", "hello")
    plain = function.request_head + request_id.encode() + b"\r\nContent-Length: 2\r\n\r\n"
    head = sender.head(plain, function, request_id)
    lines = head.decode().split("\r\n")
    return head, plain, dict(line.split(": ", 1) for line in lines[1:] if line)


def proof_of(sender, **of):
    return head_of(sender, **of)[2][wire.PEER_PROOF]


def test_the_head_is_the_invocations_with_a_proof_and_the_functions_name():
    head, plain, fields = head_of(peers())
    assert fields[wire.FUNCTION] == "default/hello"
    assert head.startswith(plain.split(b"\r\n")[0] + b"\r\n")
    assert head.endswith(b"Content-Length: 2\r\n\r\n")
    added = (wire.PEER_PROOF.encode(), wire.FUNCTION.encode())
    assert b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(added)) == plain


@pytest.mark.parametrize(
    ("elapsed", "is_valid"),
    [(0.0, True), (PROOF_AGE - 1, True), (-PROOF_AGE + 1, True), (PROOF_AGE + 1, False), (-PROOF_AGE - 1, False)],
)
def test_a_proof_is_good_for_a_while_whichever_clock_is_ahead(elapsed, is_valid):
    proof = proof_of(peers())
    assert peers(NOW + elapsed).is_valid(proof, "default/hello", "id-1") is is_valid


@pytest.mark.parametrize(
    ("function", "request_id", "key"),
    [
        ("default/other", "id-1", KEY),
        ("default/hello", "id-2", KEY),
        ("default/hello", "", KEY),
        ("default/hello", "id-1", bytes(32)),
    ],
)
def test_a_proof_is_for_one_request_of_one_function_by_one_key(function, request_id, key):
    assert not peers(key=key).is_valid(proof_of(peers()), function, request_id)


@example("\u00b2.ab")
@example("9" * 5000 + ".ab")
@given(st.text(max_size=100))
def test_no_other_text_is_a_proof(text):
    assert not peers().is_valid(text, "default/hello", "id-1")


@given(st.integers(0, 10**9), st.integers(0, 200))
def test_an_altered_proof_is_none(seconds, place):
    proof = proof_of(peers())
    assert not peers().is_valid(f"{seconds}.{proof.partition('.')[2]}", "default/hello", "id-1")
    place %= len(proof)
    altered = proof[:place] + ("0" if proof[place] != "0" else "1") + proof[place + 1 :]
    assert not peers().is_valid(altered, "default/hello", "id-1")


async def test_a_connection_is_used_again_until_the_gateway_has_another_address(invoking):
    world = invoking()
    first, second = FakePod(), FakePod()
    world.loop.network |= {("10.9.0.2", 9001): first, ("10.9.0.3", 9001): second}
    connection = await world.peers.connect(Peer("b", "10.9.0.2"))
    connection.finish()
    for _ in range(2):
        connection.begin(VirtualTime.now + 1)
        connection.write(b"GET /a HTTP/1.1\r\n\r\n")
        await connection.head()
        connection.finish()
        assert await world.peers.connect(Peer("b", "10.9.0.2")) is connection
    connection.begin(VirtualTime.now + 1)
    assert await world.peers.connect(Peer("b", "10.9.0.3")) is not connection
    assert (len(first.transports), len(second.transports)) == (1, 1)


@pytest.mark.parametrize("host", [None, "10.9.0.9"])
async def test_a_gateway_without_an_address_or_that_is_away_takes_no_connection(invoking, host):
    assert await invoking().peers.connect(Peer("b", host)) is None


async def test_a_backlog_is_notified_with_a_proof_of_its_own(invoking):
    world = invoking()
    other = FakePod(lambda _: response(b""))
    world.loop.network["10.9.0.2", 9001] = other
    world.peers.notify_backlog(Peer("b", "10.9.0.2"), world.function)
    await until(lambda: other.requests)
    (sent,) = other.requests
    assert (sent.method, sent.target) == ("POST", wire.BACKLOG_PATH)
    assert world.peers.is_valid(sent.headers["kappa-peer-proof"], "default/hello", "")
    await until(lambda: not world.upstream.active)
    assert len(other.open) == 1, "the connection is kept"


async def test_a_notification_may_get_lost(invoking):
    world = invoking()
    world.peers.notify_backlog(Peer("b", "10.9.0.9"), world.function)
    other = FakePod(lambda _: None)
    world.loop.network["10.9.0.2", 9001] = other
    world.peers.notify_backlog(Peer("b", "10.9.0.2"), world.function)
    await until(lambda: other.requests and not world.upstream.active)
    assert not other.open
    assert NOTIFY_TIMEOUT <= 1.0
