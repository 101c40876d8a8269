"""The composition root: the only room that names concrete adapters."""

from ipa.bootstrap.app import App, build
from ipa.bootstrap.options import ServeOptions
from ipa.bootstrap.worlds import kube_client

__all__ = ["App", "ServeOptions", "build", "kube_client"]
