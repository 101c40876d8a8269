"""A cluster whose pods are processes of this machine, with a Prometheus, for somebody's own Deployments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakes.kube import FakeKube
from tests.fakes.kube.kinds import Kinds
from tests.fakes.kube.node import Node, prometheus_of

# What the images of the page run that have no command of their own.
PROGRAMS = {"shop/app:1": "tests.fakes.kube.caller"}


@contextmanager
def node_of_others(folder: Path) -> Iterator[tuple[Path, str]]:
    """The kubeconfig and the URL of Prometheus. AssertionError if a request of the application failed."""
    with (
        FakeKube(kinds=Kinds()) as kube,
        Node(kube.cluster, folder / "pods", ("pipelines.digits.runtime",), programs=PROGRAMS) as node,
        prometheus_of(node, folder / "prometheus") as url,
    ):
        yield kube.kubeconfig(folder), url
        assert outcomes(url).keys() == {"answered"}, outcomes(url)


def outcomes(prometheus_url: str) -> dict[str, float]:
    """How many of the application's requests had each outcome that there was, of all its pods."""
    query = "sum by (outcome) (max_over_time(app_requests_total[1h])) > 0"
    answer = httpx.get(f"{prometheus_url}/api/v1/query", params={"query": query}, trust_env=False)
    rows = answer.raise_for_status().json()["data"]["result"]
    return {row["metric"]["outcome"]: float(row["value"][1]) for row in rows}
