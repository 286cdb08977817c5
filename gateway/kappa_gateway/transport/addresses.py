"""Which addresses the gateway delivers to: whoever may write a Function chooses the URL, and the gateway dials it.

Checked for each address just before it is dialled, so a name that resolves to another address the second time, or a
number written in an unusual way, makes no difference.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, Literal

Reach = Literal["any", "cluster", "public"]
"""The setting `delivery_addresses`."""

_NAT64: Final = IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset({IPv6Address("fd00:ec2::254")})
"""AWS's metadata service over IPv6. Over IPv4, every cloud's metadata service has a link-local address."""


def refusal(address: str, reach: Reach) -> str | None:
    """Why this IP address must not be dialled; None: it may be."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in _NAT64:
            found = IPv4Address(found.packed[12:])
    if found.is_link_local or found in _METADATA:
        return f"{address} is a link-local or metadata address, which no destination can be"
    if found.is_loopback and reach != "any":
        return f"{address} is the gateway itself; name the receiver's Service, such as http://receiver.team-a.svc"
    if found.is_multicast or found.is_unspecified or (found.version == 4 and found.is_reserved):
        return f"{address} is not the address of a host"
    if not found.is_global and reach == "public":
        return f"{address} is not public, and this installation delivers to public addresses only (delivery_addresses)"
    return None
