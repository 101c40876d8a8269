"""Which addresses a webhook may reach: looked at when it connects, so that no name can lead elsewhere."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
# Where clouds tell a machine its credentials, beside the link-local 169.254.169.254: AWS over IPv6, Alibaba,
# Azure. Never, even where private networks are allowed.
METADATA = frozenset(
    ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
# An IPv4 address is in the last 32 bits of these: NAT64, and the long deprecated "compatible" ones.
EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


def refusal(text: str, *, private: bool) -> str:
    """Why the address may not be reached, empty where it may; `private`: networks that are not public may."""
    outer = ip_address(text)
    for address in (outer, *_embedded(outer)):
        why = _refusal(address, private=private)
        if why:
            return f"{text} is {why}"
    return ""


def _refusal(address: Address, *, private: bool) -> str:
    if address in METADATA:
        return "where a cloud tells its credentials"
    if address.is_link_local:
        return "link-local, where clouds tell their credentials"
    if address.is_multicast or address.is_unspecified:
        return "no address of one host"
    if not private and not _is_public(address):
        return "not public; IPA_WEBHOOK_NETWORKS=private allows it"
    return ""


def _is_public(address: Address) -> bool:
    """What holds another address is as public as that one is."""
    return address.is_global or bool(_embedded(address))


def _embedded(address: Address) -> tuple[Address, ...]:
    """The addresses that traffic to this one ends up at."""
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
