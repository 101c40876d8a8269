"""The DNS and kube-proxy of a cluster for processes of one machine; `in_cluster` puts them into effect.

The file that NODE_HOSTS names says {"name": {"address": "127.128.0.1", "pods": ["127.64.0.1", ...]}}: a
Service has an address of its own, a connection to which goes to one of its ready pods at random; the name of
one without (a headless Service) leads to all of its ready pods.
"""

from __future__ import annotations

import json
import os
import random
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

HOSTS = "NODE_HOSTS"
# The variable with the address of the process's own pod, which all its containers share, and what else they
# call that address.
OWN = "NODE_ADDRESS"
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
SUFFIX = ".svc.cluster.local"
# Where addresses of Services begin.
SERVICES = "127.128."

_system_lookup = socket.getaddrinfo
_system_connect = socket.socket.connect
_system_connect_ex = socket.socket.connect_ex
_system_bind = socket.socket.bind


def _services() -> dict[str, dict[str, Any]]:
    path = os.environ.get(HOSTS)
    services: dict[str, dict[str, Any]] = json.loads(Path(path).read_text()) if path else {}
    return services


def _lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        return _system_lookup(os.environ.get(OWN, LOOPBACK), port, *args, **kwargs)
    if name is None or _is_address(name):
        return _system_lookup(host, port, *args, **kwargs)
    service = _services().get(name.removesuffix(".").removesuffix(SUFFIX))
    if service is None:
        # Nobody outside is asked: that may take long where there is no network.
        raise socket.gaierror(socket.EAI_NONAME, f"there is no Service {name}")
    addresses = [service["address"]] if service["address"] else service["pods"]
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, f"no pod of {name} is ready")
    kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    return [(*kind, (address, int(port or 0))) for address in addresses]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _pod(address: Any) -> Any:
    """The address of a ready pod instead of its Service's; without one as it is, where nobody listens."""
    if not isinstance(address, tuple) or not str(address[0]).startswith(SERVICES):
        return _in_pod(address, LOOPBACK)
    pods = [pod for it in _services().values() if it["address"] == address[0] for pod in it["pods"]]
    return (random.choice(pods), *address[1:]) if pods else address


def _connect(self: socket.socket, address: Any) -> None:
    _system_connect(self, _pod(address))


def _connect_ex(self: socket.socket, address: Any) -> int:
    return _system_connect_ex(self, _pod(address))


def _bind(self: socket.socket, address: Any) -> None:
    _system_bind(self, _in_pod(address, "", EVERYWHERE, LOOPBACK, "localhost"))


def _in_pod(address: Any, *names: str) -> Any:
    """The process's own pod where the address is one of those names for it."""
    own = os.environ.get(OWN)
    is_own = isinstance(address, tuple) and address[0] in names
    return (own, *address[1:]) if own and is_own else address


def install() -> None:
    """Let this process reach Services by their names, and listen at the address of its own pod."""
    socket.socket.bind = _bind  # type: ignore[method-assign]
    socket.getaddrinfo = _lookup
    socket.socket.connect = _connect  # type: ignore[method-assign]
    socket.socket.connect_ex = _connect_ex  # type: ignore[method-assign]
