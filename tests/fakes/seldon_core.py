"""Seldon's own Python microservice, seldon-core 1.17.1, in an environment of its own and on loopback only.

1.17.1 is the last version under the Apache License, and wants older versions of packages that this project
has. `IPA_TEST_SELDON_PYTHON` names an interpreter that has it already.
"""

from __future__ import annotations

from tests.fakes.own_environment import OwnEnvironment

VERSION = "1.17.1"
ENVIRONMENT = OwnEnvironment(
    "seldon-core",
    VERSION,
    f"import seldon_core; assert seldon_core.__version__ == {VERSION!r}",
    "IPA_TEST_SELDON_PYTHON",
    # NumPy 1 has no wheels for later ones.
    pythons=("3.11", "3.12"),
    # It has distutils, which Python has no longer from 3.12 on, and pkg_resources below 82.
    beside=("setuptools<81",),
)

# The microservice binds 0.0.0.0 without asking: this has it bind 127.0.0.1, or the address of its own pod.
# Its children end with it, whatever ends it.
LAUNCHER = """
import ctypes, os, signal, socket, sys
own = os.environ.get("NODE_ADDRESS", "127.0.0.1")
bind = socket.socket.bind
def bind_loopback(self, address):
    is_any = isinstance(address, tuple) and address[0] in ("", "0.0.0.0")
    return bind(self, (own, *address[1:]) if is_any else address)
socket.socket.bind = bind_loopback
end_with_parent = ctypes.CDLL(None).prctl
os.register_at_fork(after_in_child=lambda: end_with_parent(1, signal.SIGKILL))
from seldon_core import microservice, wrapper
make = wrapper.get_grpc_server
def make_on_loopback(*given, **named):
    server = make(*given, **named)
    add = server.add_insecure_port
    server.add_insecure_port = lambda address: add(address.replace("0.0.0.0", own))
    return server
wrapper.get_grpc_server = make_on_loopback
microservice.main()
"""
