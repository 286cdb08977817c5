"""Loans of places: what is believed, and how long a place stays lent."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.backend import Pod
from kappa_gateway.pools.loans import CONTEXT, LOAN_SECONDS, Lent, LoanRequest, Refused, encode, read
from kappa_gateway.pools.signing import Signer
from kappa_gateway.state import FunctionState, PodState, PodStatus

SIGNER = Signer(bytes(32))
REQUEST = LoanRequest(
    lender="gateway-1",
    borrower="gateway-2",
    namespace="default",
    function="hello",
    pod="pool-0",
    pod_uid="uid-0",
    asked_at=1000.0,
)
names = st.text(max_size=30)


@given(names, names, names, names, names, names, st.floats(0, 2e9))
def test_what_was_encoded_is_read(lender, borrower, namespace, function, pod, uid, asked_at):
    request = LoanRequest(
        lender=lender,
        borrower=borrower,
        namespace=namespace,
        function=function,
        pod=pod,
        pod_uid=uid,
        asked_at=asked_at,
    )
    body, signature = encode(request, SIGNER)
    assert read(body, signature.encode(), lender=lender, now=asked_at, verify=SIGNER.verify) == request


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"body": b"{}"}, "not signed"),
        ({"signature": b""}, "not signed"),
        ({"signature": b"AAAA"}, "not signed"),
        ({"signature": b"\xff"}, "not signed"),
        ({"verify": Signer(b"1" * 32).verify}, "not signed"),
        ({"lender": "gateway-3"}, "it is for gateway-1"),
        ({"now": 1100.0}, "long ago"),
        ({"now": 900.0}, "long ago"),
    ],
)
def test_what_no_gateway_signed_for_this_one_just_now_is_refused(change, why):
    body, signature = encode(REQUEST, SIGNER)
    given_ = {"lender": "gateway-1", "now": 1000.0, "verify": SIGNER.verify, "signature": signature.encode(), **change}
    with pytest.raises(Refused, match=why):
        read(given_.pop("body", body), given_.pop("signature"), **given_)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"lender": "gateway-1"}', json.dumps({"askedAt": "x"}).encode()])
def test_signed_nonsense_is_refused(body):
    with pytest.raises(Refused, match="cannot be read"):
        read(body, _signature(body), lender="gateway-1", now=1000.0, verify=SIGNER.verify)


def _signature(body):
    return base64.b64encode(SIGNER(CONTEXT + body))


def test_a_signature_of_another_kind_of_message_is_none():
    body, _ = encode(REQUEST, SIGNER)
    with pytest.raises(Refused, match="not signed"):
        read(body, base64.b64encode(SIGNER(body)), lender="gateway-1", now=1000.0, verify=SIGNER.verify)


class Book:
    """A lender's book, its clock, its pool, and the function whose place is lent."""

    def __init__(self):
        self.now = 0.0
        self.in_pool = True
        self.free = True
        self.function = FunctionState("default", "hello")
        self.lent = Lent(lambda: self.now, lambda *_: (self.in_pool, self.free))
        self.lent.add(REQUEST)

    def show(self):
        pod = Pod("default", "pool-0", "hello", "10.0.0.1", 8080, 1, "lambda")
        self.function.pods["pool-0"] = PodState(pod, self.function, 0.0)
        return self.function.pods["pool-0"]

    @property
    def count(self):
        return self.lent.count(self.function)


def test_a_place_is_lent_for_as_long_as_its_pod_is_the_functions():
    book = Book()
    assert book.count == (1, 1)
    assert book.lent.has(REQUEST)
    assert book.lent.reserves("default", "pool-0")
    pod = book.show()
    book.in_pool = False
    book.now = 1000.0
    assert book.count == (1, 0)
    assert not book.lent.reserves("default", "pool-0")
    pod.status = PodStatus.DRAINING
    assert book.count == (0, 0)


def test_a_place_whose_pod_stays_free_comes_back():
    book = Book()
    book.now = LOAN_SECONDS - 0.01
    assert book.count == (1, 1)
    book.now = LOAN_SECONDS
    assert book.count == (0, 0)


def test_a_place_whose_pod_was_taken_stays_lent_though_the_platform_does_not_show_it():
    book = Book()
    book.free = False
    book.now = 1000.0
    assert book.count == (1, 1)
    # relabelled as another function's, or deleted: for a moment it may be on its way
    book.in_pool = False
    assert book.count == (1, 1)
    book.now += 9.0
    assert book.count == (1, 1)
    book.now += 1.0
    assert book.count == (0, 0)


def test_a_place_of_another_function_does_not_count():
    book = Book()
    assert book.lent.count(FunctionState("default", "other")) == (0, 0)
    assert book.count == (1, 1)
    book.lent.drop("default", "pool-0")
    assert book.count == (0, 0)
