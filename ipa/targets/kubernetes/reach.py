"""The ways to a Service of the cluster: its address, or a port that kubectl forwards."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from select import select
from time import monotonic

from ipa.adapters import processes
from ipa.model.errors import ConfigurationError, UnavailableError
from ipa.settings import Settings

SERVICE, PORT_FORWARD, AUTO = "service", "port-forward", "auto"
ADDRESS = "http://{service}.{namespace}:{port}"
FORWARDING = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ->")
START_S, STOP_S = 20.0, 5.0
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Reach:
    """The way to Services: `address` with {service}, {namespace} and {port}, or empty to forward a port."""

    address: str = ADDRESS
    kubeconfig: str = ""

    @property
    def words(self) -> str:
        """The way in words, for the profile."""
        return "at its Service" if self.address else "through a port that kubectl forwards"

    def url(self, service: str, namespace: str, port: int) -> AbstractContextManager[str]:
        """The URL of the Service, for as long as the block lasts. Errors: UnavailableError."""
        if self.address:
            return nullcontext(self.address.format(service=service, namespace=namespace, port=port))
        return _forwarded(service, namespace, port, self.kubeconfig)


def reach_of(settings: Settings) -> Reach:
    """The way that the settings say: with a kubeconfig a forwarded port unless they say otherwise."""
    usual = PORT_FORWARD if settings.kubeconfig else SERVICE
    asked = usual if settings.profile_reach == AUTO else settings.profile_reach
    return Reach({SERVICE: ADDRESS, PORT_FORWARD: ""}.get(asked, asked), settings.kubeconfig)


@contextmanager
def _forwarded(service: str, namespace: str, port: int, kubeconfig: str) -> Iterator[str]:
    command = ["kubectl", *(["--kubeconfig", kubeconfig] if kubeconfig else []), "--namespace", namespace]
    command += ["port-forward", "--address", "127.0.0.1", f"service/{service}", f":{port}"]
    try:
        # With all of the environment: what it authenticates with may be there.
        process = processes.start(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
    except OSError as error:
        raise ConfigurationError(
            f"kubectl cannot be run: {error}",
            hint="Install it, or set IPA_PROFILE_REACH=service where Services of the cluster can be asked.",
        ) from error
    try:
        yield f"http://127.0.0.1:{_port(process, f'service/{service} of {namespace}')}"
    finally:
        processes.terminate(process, STOP_S)
        if process.stdout is not None:
            process.stdout.close()


def _port(process: subprocess.Popen[bytes], what: str) -> int:
    """The local port that kubectl says it forwards. UnavailableError with its last words."""
    assert process.stdout is not None
    said, until_s = b"", monotonic() + START_S
    while (left_s := until_s - monotonic()) > 0:
        if not select([process.stdout], [], [], left_s)[0]:
            break
        part = os.read(process.stdout.fileno(), CHUNK)
        said += part
        found = FORWARDING.search(said)
        if found:
            return int(found[1])
        if not part:
            break
    words = said.decode(errors="replace").strip() or f"nothing within {START_S:g} s"
    raise UnavailableError(f"kubectl forwards no port of {what}: {words[-300:]}")
