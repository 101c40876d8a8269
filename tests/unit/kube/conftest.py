"""The fake API server with the sample pipeline, and a client whose waits are on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.targets.seldon.manifest import render
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_configs, sample_pipeline


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def kube(clock: VirtualClock) -> Iterator[FakeKube]:
    with FakeKube() as fake:
        fake.wall_s = lambda: clock.now().timestamp()
        fake.store.create("seldondeployments", "models", render(sample_pipeline(), sample_configs()))
        fake.tick(4)
        yield fake


@pytest.fixture
def client(kube: FakeKube, clock: VirtualClock, tmp_path: Path) -> Iterator[KubeClient]:
    made = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0, clock=clock, seed=0)
    yield made
    made.close()
