"""A Kubernetes API server with Seldon's operator, over real HTTP, for the tests only.

It answers as a genuine kube-apiserver 1.32 with the operator was seen to. Its clock is `tick()`.
"""

from tests.fakes.kube.cluster import Cluster, Trouble
from tests.fakes.kube.faults import Fault, FaultKind
from tests.fakes.kube.server import FakeKube

__all__ = ["Cluster", "FakeKube", "Fault", "FaultKind", "Trouble"]
