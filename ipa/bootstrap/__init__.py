"""The composition root: the only room that names concrete adapters."""

from ipa.bootstrap.app import App, build
from ipa.bootstrap.identity import check_listening, hosts_of
from ipa.bootstrap.options import ServeOptions, Simulated
from ipa.bootstrap.replaying import Replayer
from ipa.bootstrap.service import service_of
from ipa.bootstrap.targets import kube_client

__all__ = [
    "App",
    "Replayer",
    "ServeOptions",
    "Simulated",
    "build",
    "check_listening",
    "hosts_of",
    "kube_client",
    "service_of",
]
