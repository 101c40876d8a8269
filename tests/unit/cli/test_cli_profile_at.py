"""`ipa profile --at URL`: files in, a measured profile of servers that run already out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ipa.files import load_profile
from ipa.files.pipelines import dump_pipeline
from ipa.model.errors import ExitCode
from tests.fakes.answering import Answering
from tests.fakes.commands import Ipa
from tests.fakes.kube.samples import sample_pipeline

BENCH = """
class Workload:
    items = [[{"name": "x", "shape": [1], "datatype": "FP64", "data": [float(n)]}] for n in range(4)]

    def accuracy(self, answers):
        return sum(list(each["y"]) == [2.0 * n] for n, each in enumerate(answers)) / len(answers)


def workload(stage, seed):
    return Workload()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "measured_here" / "sample"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "bench.py").write_text(BENCH)
    (folder / "pipeline.yaml").write_text(dump_pipeline(sample_pipeline()))
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(folder.parent))
    return tmp_path


def double(path: str, body: Any) -> tuple[int, Any]:
    """A model server's answer to a batch, as the pod of a stage."""
    if body is None:
        return 200, {"ready": True}
    [given] = body["inputs"]
    output = {**given, "name": "y", "data": [2 * value for value in given["data"]]}
    return 200, {"model_name": "m", "outputs": [output]}


def test_servers_that_run_already_are_measured(home: Path, ipa: Ipa) -> None:
    with Answering(double) as server:
        url = f"{server.url}/{{cores}}/{{variant}}/{{stage}}/infer"
        words = ["profile", "sample", "-s", "detect", "--at", url, "--cores", "0.5,1"]
        words += ["--batches", "1,2", "--repeats", "2", "--budget", "0.01", "--folder", str(home / "out")]
        ipa(*words)
    assert list(dict.fromkeys(path for path, body in server.requests if body)) == [
        f"/{cores}/{variant}/detect/infer" for variant in ("d-s", "d-l") for cores in ("500m", "1000m")
    ]
    profile = load_profile(home / "out" / "detect.yaml")
    assert [each.variant for each in profile.variants] == ["d-s", "d-l"]
    assert profile.hardware == f"servers at {url}" and profile.variants[0].readiness_s is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-s", "detect", "--variants", "d-s", "--cores", "1", "--at", "kubernetes"],
            "'kubernetes' is not an http or https URL",
        ),
        (["--at", "http://a/{variant}", "--cores", "1,2"], "several values of {stage}, {cores}"),
        (["-s", "detect", "--at", "http://a", "--cores", "1"], "several values of {variant}"),
    ],
)
def test_an_address_that_cannot_be_all_of_them_is_refused(
    home: Path, words: list[str], message: str, ipa: Ipa
) -> None:
    assert message in " ".join(ipa("profile", "sample", *words, code=ExitCode.USAGE).err.split())
