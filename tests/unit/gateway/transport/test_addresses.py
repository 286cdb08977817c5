"""Which addresses the gateway delivers to."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_gateway.transport.addresses import Reach, refusal

PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
PRIVATE = ["10.96.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
    "255.255.255.255",
]


@pytest.mark.parametrize(
    ("reach", "taken"),
    [("any", [*PUBLIC, *PRIVATE, *LOOPBACK]), ("cluster", [*PUBLIC, *PRIVATE]), ("public", PUBLIC)],
)
def test_what_each_setting_lets_through(reach: Reach, taken: list[str]) -> None:
    everything = [*PUBLIC, *PRIVATE, *LOOPBACK, *NEVER]
    assert [address for address in everything if refusal(address, reach) is None] == taken


def test_a_refusal_says_what_to_do() -> None:
    assert "name the receiver's Service" in (refusal("127.0.0.1", "cluster") or "")
    assert "delivery_addresses" in (refusal("10.0.0.1", "public") or "")


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_a_narrower_setting_lets_nothing_more_through(address: IPv4Address | IPv6Address) -> None:
    refused = [refusal(str(address), reach) is not None for reach in ("any", "cluster", "public")]
    assert refused == sorted(refused)
    if address.version == 4:
        assert [refusal(f"::ffff:{address}", reach) is not None for reach in ("any", "cluster", "public")] == refused
