"""`ipa profile --at kubernetes`: files in, a measured profile out, and nothing left on the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.cli.main import run
from ipa.files import load_profile
from ipa.files.pipelines import dump_pipeline
from ipa.model.errors import ExitCode
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon import bench
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.v2_server import V2Server

BENCH = """
class Workload:
    items = [[{"name": "x", "shape": [1], "datatype": "FP64", "data": [float(n)]}] for n in range(4)]

    def accuracy(self, answers):
        return sum(list(each["y"]) == [2.0 * n] for n, each in enumerate(answers)) / len(answers)


def workload(stage, seed):
    return Workload()
"""


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "measured_here" / "sample"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "bench.py").write_text(BENCH)
    (folder / "pipeline.yaml").write_text(dump_pipeline(sample_pipeline()))
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(folder.parent))
    monkeypatch.setattr(bench, "POLL_S", 0.001)
    return tmp_path


def test_a_stage_is_measured_on_a_cluster(
    home: Path, kube: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(kube.kubeconfig(home))
    client = KubeClient.from_kubeconfig(config, 10.0)
    KubeWorkload(client, layout_of).create(sample_pipeline(), sample_configs())
    client.close()
    kube.tick(8)
    # The cluster moves on with each request.
    kube.before = lambda request: kube.cluster.tick()
    with V2Server() as server:
        monkeypatch.setenv("IPA_PROFILE_REACH", f"http://127.0.0.1:{server.port}")
        words = ["profile", "sample", "-s", "detect", "--at", f"kubernetes:{config}", "--cores", "0.5"]
        words += ["--batches", "1,2", "--repeats", "2", "--budget", "0.01", "--folder", str(home / "out")]
        assert run(words) == 0, capsys.readouterr().err
    found = load_profile(home / "out" / "detect.yaml")
    assert [each.variant for each in found.variants] == ["d-s", "d-l"]
    assert found.hardware.endswith("node worker-1")
    with kube.store.lock:
        assert [one["metadata"]["name"] for one in kube.store.everything("seldondeployments")] == ["sample"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "models"], "--namespace needs --at kubernetes"),
        (["--at", "simulated"], "target simulated cannot measure the stages of a pipeline"),
        (["--at", "local", "-n", "models"], "has no section for target local"),
    ],
)
def test_what_has_no_meaning_is_refused(
    home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["profile", "sample", *words]) == ExitCode.USAGE
    assert said in " ".join(capsys.readouterr().err.split())
