"""One gateway claims for a function: all compute the same one, and a change of gateways makes a pause between two."""

from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.warm.ownership import HANDOVER, Ownership

NAMES = ["gateway-a", "gateway-b", "gateway-c"]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def peers(*names):
    return [Peer(name, f"10.0.0.{number}") for number, name in enumerate(names, 1)]


def gateway(name, clock, *others):
    made = Ownership(name, clock, is_alone=False)
    made.replace_peers(peers(name, *others))
    clock.now += HANDOVER
    return made


def test_a_gateway_alone_claims_for_every_function():
    alone = Ownership("local", Clock(), is_alone=True)
    owner = alone.owner("default/f")
    assert owner is not None
    assert alone.is_own(owner)


def test_nothing_is_claimed_until_the_gateways_are_known():
    made = Ownership("gateway-a", Clock(), is_alone=False)
    assert not made.is_known
    assert made.owner("default/f") is None
    made.replace_peers([])
    assert made.owner("default/f") is None, "none is ready, this one included"


@given(st.text(min_size=1, max_size=20))
def test_all_gateways_name_the_same_one(key):
    clock = Clock()
    made = [gateway(name, clock, *(other for other in NAMES if other != name)) for name in NAMES]
    owners = [one.owner(key) for one in made]
    assert len({owner.name for owner in owners}) == 1
    assert sum(one.is_own(owner) for one, owner in zip(made, owners, strict=True)) == 1


def test_a_function_that_moves_is_claimed_by_none_for_a_while():
    clock = Clock()
    made = gateway("gateway-a", clock, "gateway-b", "gateway-c")
    keys = [f"default/f{number}" for number in range(60)]
    before = {key: made.owner(key).name for key in keys}
    made.replace_peers(peers("gateway-a", "gateway-c"))
    moved = [key for key in keys if before[key] == "gateway-b"]
    assert moved
    assert all(made.owner(key) is None for key in moved)
    assert all(made.owner(key).name == before[key] for key in keys if key not in moved)
    clock.now += HANDOVER / 2
    # another change meanwhile does not cut the pause short
    made.replace_peers(peers("gateway-a", "gateway-c", "gateway-d"))
    clock.now += HANDOVER / 2
    assert all(made.owner(key) is None or made.owner(key).name != "gateway-d" for key in keys)
    clock.now += HANDOVER / 2
    assert {made.owner(key).name for key in keys} == {"gateway-a", "gateway-c", "gateway-d"}


def test_a_gateway_that_starts_waits_before_it_takes_functions_over():
    clock = Clock()
    made = Ownership("gateway-a", clock, is_alone=False)
    made.replace_peers(peers("gateway-a", "gateway-b"))
    keys = [f"default/f{number}" for number in range(40)]
    assert {owner.name for key in keys if (owner := made.owner(key)) is not None} == {"gateway-b"}
    clock.now += HANDOVER
    assert {made.owner(key).name for key in keys} == {"gateway-a", "gateway-b"}


def test_a_new_address_is_no_handover():
    clock = Clock()
    made = gateway("gateway-a", clock)
    made.replace_peers([Peer("gateway-a", "10.9.9.9")])
    assert made.owner("default/f").host == "10.9.9.9"
