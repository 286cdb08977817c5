"""What follows a try of an event: Lambda's rules, and what holds for every policy."""

import math
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.event import (
    Condition,
    GiveUp,
    Policy,
    Record,
    Retry,
    Status,
    Trouble,
    after_trouble,
    backoff,
    derived_id,
    expired,
    keyed_id,
)

POLICY = Policy()
NOW = 1_800_000_000.0
seconds = st.floats(min_value=0.001, max_value=1e6)
policies = st.builds(
    Policy,
    max_attempts=st.integers(1, 10),
    max_age=st.floats(min_value=60, max_value=6 * 3600),
    retry_delays=st.lists(st.floats(min_value=0, max_value=1e6), max_size=4),
    first_backoff=seconds,
    longest_backoff=seconds,
)


def after(trouble, *, attempts=0, postponements=0, age=0.0, policy=POLICY, retry_after=0.0):
    return after_trouble(
        trouble,
        now=NOW,
        received_at=NOW - age,
        attempts=attempts,
        postponements=postponements,
        policy=policy,
        retry_after=retry_after,
    )


def test_lambdas_two_retries_after_one_and_two_minutes():
    assert after(Trouble.FUNCTION_ERROR) == Retry(60.0, attempts=1, postponements=0)
    assert after(Trouble.FUNCTION_ERROR, attempts=1) == Retry(120.0, attempts=2, postponements=0)
    assert after(Trouble.FUNCTION_ERROR, attempts=2) == GiveUp(Condition.RETRIES_EXHAUSTED, Status.FAILED, 3)


def test_the_last_delay_goes_on():
    policy = Policy(max_attempts=10, retry_delays=[1.0, 2.0])
    assert [after(Trouble.FUNCTION_ERROR, attempts=n, policy=policy).delay for n in range(4)] == [1.0, 2.0, 2.0, 2.0]
    assert after(Trouble.FUNCTION_ERROR, policy=Policy(retry_delays=[])).delay == 0.0


def test_postponements_back_off_from_a_second_to_five_minutes_and_use_no_attempt():
    delays = [after(Trouble.UNAVAILABLE, attempts=1, postponements=n) for n in range(12)]
    assert [retry.delay for retry in delays] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert {retry.attempts for retry in delays} == {1}
    assert delays[3].postponements == 4


def test_a_function_error_begins_the_backoff_anew():
    assert after(Trouble.FUNCTION_ERROR, postponements=7).postponements == 0


def test_max_replicas_zero_is_the_end():
    assert after(Trouble.REFUSED) == GiveUp(Condition.ZERO_RESERVED_CONCURRENCY, Status.FAILED, 0)


def test_looks_ahead_at_max_age():
    policy = Policy(max_age=100.0)
    assert isinstance(after(Trouble.FUNCTION_ERROR, age=40.0, policy=policy), Retry)
    assert after(Trouble.FUNCTION_ERROR, age=40.1, policy=policy) == GiveUp(
        Condition.EVENT_AGE_EXCEEDED, Status.EXPIRED, 1
    )


def test_a_web_server_may_ask_for_patience_within_bounds():
    assert after(Trouble.UNAVAILABLE, retry_after=20.0).delay == 20.0
    assert after(Trouble.UNAVAILABLE, retry_after=1e9).delay == 300.0
    assert after(Trouble.UNAVAILABLE, postponements=8, retry_after=1.0).delay == 256.0
    assert after(Trouble.FUNCTION_ERROR, retry_after=999.0).delay == 60.0


@given(
    st.sampled_from(Trouble),
    st.integers(0, 20),
    st.integers(0, 10**6),
    st.floats(min_value=-1e6, max_value=1e6),
    st.floats(min_value=0, max_value=1e9),
    policies,
)
def test_never_beyond_max_age_nor_max_attempts(trouble, attempts, postponements, age, retry_after, policy):
    verdict = after(
        trouble, attempts=attempts, postponements=postponements, age=age, policy=policy, retry_after=retry_after
    )
    if isinstance(verdict, Retry):
        assert 0 <= verdict.delay < math.inf
        assert NOW + verdict.delay <= NOW - age + policy.max_age
        assert verdict.attempts < policy.max_attempts or trouble is Trouble.UNAVAILABLE
        assert verdict.attempts + verdict.postponements > 0
    else:
        assert verdict.status in (Status.FAILED, Status.EXPIRED)
        assert verdict.condition is not Condition.SUCCESS
    assert verdict.attempts == attempts + (trouble is Trouble.FUNCTION_ERROR)


@given(policies)
def test_every_event_ends(policy):
    """Whatever goes wrong, time and attempts run out: no event is tried for ever."""
    now = received_at = NOW
    attempts = postponements = tries = 0
    while True:
        trouble = Trouble.FUNCTION_ERROR if tries % 3 == 0 else Trouble.UNAVAILABLE
        verdict = after_trouble(
            trouble, now=now, received_at=received_at, attempts=attempts, postponements=postponements, policy=policy
        )
        if isinstance(verdict, GiveUp):
            return
        attempts, postponements = verdict.attempts, verdict.postponements
        now += verdict.delay
        tries += 1
        assert not expired(now=now, received_at=received_at, policy=policy)
        assert tries <= 3 * policy.max_attempts


@given(st.integers(0, 10**9), seconds, seconds)
def test_the_backoff_grows_up_to_its_bound(before, first, longest):
    this, following = backoff(before, first, longest), backoff(before + 1, first, longest)
    assert min(first, longest) <= this <= following <= longest


def test_expired():
    policy = Policy(max_age=60.0)
    assert not expired(now=NOW + 60, received_at=NOW, policy=policy)
    assert expired(now=NOW + 60.1, received_at=NOW, policy=policy)
    assert not expired(now=NOW - 1000, received_at=NOW, policy=policy), "a clock that went back"


records = st.builds(
    Record,
    namespace=st.just("default"),
    function=st.just("f"),
    id=st.text(min_size=1),
    status=st.sampled_from(Status),
    received_at=st.floats(min_value=0, max_value=1e10),
    updated_at=st.floats(min_value=0, max_value=1e10),
    attempts=st.integers(0, 10),
    postponements=st.integers(0, 10),
    receive_count=st.integers(0, 10),
    next_attempt=st.none() | st.floats(min_value=0, max_value=1e10),
    result=st.none() | st.text(),
    result_truncated=st.booleans(),
    error=st.none() | st.dictionaries(st.text(), st.text() | st.integers()),
)


@given(records)
def test_records_are_read_as_they_were_written(record):
    assert Record.decode(record.encode()) == record


def test_a_newer_gateways_record_is_read_and_what_is_none_is_refused():
    record = Record("default", "f", "1", Status.QUEUED, 1.0, 2.0)
    assert Record.decode(record.encode()[:-1] + b',"later":1}') == record
    for data in (b"", b"[]", b"null", b'{"id": 1}', record.encode().replace(b"queued", b"unheard")):
        with pytest.raises(ValueError, match="not a record"):
            Record.decode(data)


@given(st.text(), st.text())
def test_ids_are_the_same_for_the_same_and_differ_else(one, other):
    assert (keyed_id("ns", "f", one) == keyed_id("ns", "f", other)) is (one == other)
    assert (derived_id("id", one) == derived_id("id", other)) is (one == other)
    assert keyed_id("ns", "f", one) != keyed_id("ns", "g", one)


@given(st.text(max_size=50))
def test_ids_are_uuids_of_version_5(key: str) -> None:
    known = uuid.UUID("6c7cf9a4-6fd5-5a53-9a3c-2f6d4a2c1b0e")
    assert keyed_id("ns", "f", key) == str(uuid.uuid5(known, f"ns/f/{key}")), "pinned: gateways of two versions agree"
    assert uuid.UUID(derived_id("id", key)).version == 5
