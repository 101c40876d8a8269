"""A workload on a fake cluster, where the sample pipeline runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_configs, sample_pipeline


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube() as made:
        yield made


@pytest.fixture
def workload(kube: FakeKube, tmp_path: Path) -> Iterator[KubeWorkload]:
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
    made = KubeWorkload(client, layout_of)
    made.create(sample_pipeline(), sample_configs())
    kube.tick(10)
    yield made
    client.close()
