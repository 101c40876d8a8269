"""The addresses that a webhook may connect to. The connection checks the address, not the name."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
# The metadata services of clouds, which hold credentials, beside the link-local 169.254.169.254: AWS over
# IPv6, Alibaba, Azure. Refused even if private networks are allowed.
METADATA = frozenset(
    ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
# Networks with an IPv4 address in the last 32 bits: NAT64, and the deprecated "compatible" ones.
EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


def refusal(text: str, *, private: bool) -> str:
    """Return why the address is refused, empty if it is not. `private` allows private networks."""
    outer = ip_address(text)
    for address in (outer, *_embedded(outer)):
        why = _refusal(address, private=private)
        if why:
            return f"{text} is {why}"
    return ""


def _refusal(address: Address, *, private: bool) -> str:
    if address in METADATA:
        return "a cloud's metadata service, which holds credentials"
    if address.is_link_local:
        return "link-local, as the metadata services of clouds, which hold credentials"
    if address.is_multicast or address.is_unspecified:
        return "not the address of a single host"
    if not private and not _is_public(address):
        return "not public; IPA_WEBHOOK_NETWORKS=private allows it"
    return ""


def _is_public(address: Address) -> bool:
    """True if the address is public, or embeds others: these are judged by themselves."""
    return address.is_global or bool(_embedded(address))


def _embedded(address: Address) -> tuple[Address, ...]:
    """The addresses that traffic to this one is forwarded to."""
    if isinstance(address, IPv4Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    plain = IPv6Address(int(address))
    if int(plain) > 1 and any(plain in network for network in EMBEDDING):
        return (IPv4Address(int(plain) & 0xFFFF_FFFF),)
    return ()
