"""A cluster whose pods are processes of this machine, with a Prometheus, for somebody's own Deployments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.kube import FakeKube
from tests.fakes.kube.caller import ANSWERED, FAILED
from tests.fakes.kube.kinds import Kinds
from tests.fakes.kube.node import Node, prometheus_of
from tests.fakes.waiting import until

# What the images of the page run that have no command of their own.
PROGRAMS = {"shop/app:1": "tests.fakes.kube.caller"}


@contextmanager
def node_of_others(folder: Path) -> Iterator[tuple[Path, str]]:
    """The kubeconfig, and the URL of Prometheus. AssertionError if a request of the application failed."""
    with (
        FakeKube(kinds=Kinds()) as kube,
        Node(kube.cluster, folder / "pods", ("pipelines.digits.runtime",), programs=PROGRAMS) as node,
        prometheus_of(node, folder / "prometheus") as url,
    ):
        yield kube.kubeconfig(folder), url
        with kube.store.lock:
            for each in kube.store.everything("deployments"):
                kube.store.delete("deployments", each["metadata"]["namespace"], each["metadata"]["name"])
        until(lambda: not node.names)
        said = "".join(path.read_text() for path in (folder / "pods").glob("app-*.log"))
        assert ANSWERED in said and FAILED not in said, said
