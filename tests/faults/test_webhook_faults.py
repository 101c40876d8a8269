"""H4: where a webhook may not lead, however its address is written and whatever its name means next."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpcore
import pytest

from ipa.adapters.webhook.guarded import DeliveryError, Sender, refusal
from tests.fakes.receiver import Receiver, answer
from tests.faults.table import Case

# Each leads to this machine, to a private network, or to a cloud's metadata service.
FORBIDDEN = (
    "127.0.0.1",
    "localhost",
    "[::1]",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "0.0.0.0",
    "[::]",
    "10.0.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "[fd00::1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fec0::1]",
    "[5f00::1]",
    "[::ffff:8.8.8.8]",
    "[::ffff:0:127.0.0.1]",
    "[::ffff:0:8.8.8.8]",
)
# Not even where private networks are allowed.
NEVER = (
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[::ffff:0:169.254.169.254]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
)


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were connected to; those of this machine really are."""
    found: list[str] = []
    real = httpcore.SyncBackend.connect_tcp

    def connect(self: Any, host: str, port: int, *rest: Any, **more: Any) -> Any:
        found.append(host)
        if host != "127.0.0.1":
            raise httpcore.ConnectError("nothing is asked of others in a test")
        return real(self, host, port, *rest, **more)

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def post(host: str, receiver: Receiver, *, private: bool, **options: Any) -> str:
    """What came of a post to that host."""
    sender = Sender(f"http://{host}:{receiver.port}/hook", timeout_s=5.0, private=private, **options)
    try:
        return str(sender.post(b"{}", {})[0])
    except DeliveryError as error:
        return str(error)
    finally:
        sender.close()


@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
def test_h4_forbidden_addresses(case: Case, receiver: Receiver, connects: list[str], private: bool) -> None:
    hosts = NEVER if private else FORBIDDEN + NEVER
    said = {host: post(host, receiver, private=private) for host in hosts}
    case.told("networks allowed", "private" if private else "public")
    case.told("addresses tried", len(hosts))
    case.equal("forbidden connects", len(connects) + len(receiver.posts), 0)
    case.equal("refusals without a reason", [host for host, why in said.items() if " is " not in why], [])


def test_r24_of_ipv6_only_unicast_is_public(case: Case) -> None:
    outside = ("fec0::1", "feff::1", "5f00::1", "4000::1", "::ffff:808:808", "::ffff:0:808:808", "::808:808")
    inside = ("2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808", "2002:808:808::1")
    case.equal("not refused", [each for each in outside if not refusal(each, private=False)], [])
    case.equal("refused", [each for each in inside if refusal(each, private=False)], [])


def test_h4_what_is_allowed_is_reached(case: Case, receiver: Receiver, connects: list[str]) -> None:
    hosts = ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]")
    with suppress(OSError):
        assert post(hosts[0], receiver, private=True) == "204"
    said = {host: post(host, receiver, private=True) for host in hosts[:3]}
    case.equal("answers where private networks are allowed", set(said.values()), {"204"})
    post("93.184.216.34", receiver, private=False)
    case.equal("a public address is connected to", connects[-1], "93.184.216.34")


def resolver(*answers: list[str]) -> tuple[Callable[..., Any], list[str]]:
    """A name server that says something else each time, and what it was asked."""
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    return resolve, asked


def test_h4_a_name_that_means_another_address_next(
    case: Case, receiver: Receiver, connects: list[str]
) -> None:
    resolve, asked = resolver(["93.184.216.34"], ["127.0.0.1"])
    first = post("rebind.example", receiver, private=False, resolve=resolve)
    case.equal("lookups between check and connection", len(asked) - 1, 0)
    second = post("rebind.example", receiver, private=False, resolve=resolve)
    case.equal("connected to", connects, ["93.184.216.34"])
    assert "nothing is asked" in first and "not public" in second
    resolve, _ = resolver(["127.0.0.1", "169.254.169.254", "93.184.216.34"])
    post("mixed.example", receiver, private=False, resolve=resolve)
    case.equal("of several addresses, connected to", connects[1:], ["93.184.216.34"])
    case.equal("forbidden connects", len(receiver.posts), 0)


def test_h4_a_redirect_is_not_followed(case: Case, receiver: Receiver, connects: list[str]) -> None:
    for target in ("http://169.254.169.254/latest/meta-data", "file:///etc/passwd", receiver.url):
        receiver.script.append(answer(302, Location=target))
    said = [post("127.0.0.1", receiver, private=True) for _ in range(3)]
    case.equal("answers", set(said), {"302"})
    case.equal("connections other than to the receiver", len(connects) - 3, 0)
    case.equal("unrequested posts", len(receiver.posts) - 3, 0)


def test_h4_a_proxy_of_the_environment_is_not_asked(
    case: Case, receiver: Receiver, connects: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, receiver.url)
    said = post("10.0.0.1", receiver, private=False)
    case.equal("forbidden connects", len(connects) + len(receiver.posts), 0)
    assert "not public" in said
