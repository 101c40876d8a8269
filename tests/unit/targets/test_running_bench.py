"""A running server is measured at its address, by the call that its orchestrator makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.cli.main import run
from ipa.files import dump_pipeline, load_profiles
from ipa.model.errors import UnavailableError, UsageError
from ipa.model.pipeline import Variant
from ipa.targets.local.target import LOCAL
from ipa.targets.requests import machine
from ipa.targets.seldon.section import SeldonRun, WireProtocol, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.fakes.answering import answering
from tests.fakes.kube.samples import sample_pipeline

ITEM: Any = [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]


def doubled(_path: str, body: Any) -> tuple[int, Any]:
    """The answer of a V2 server: each row twice."""
    (tensor,) = body["inputs"]
    data = [2 * value for value in tensor["data"]]
    return 200, {"outputs": [{**tensor, "name": "y", "data": data}]}


def answer_of(server: Any, items: list[Any]) -> Any:
    pipeline = sample_pipeline()
    bench = SELDON.running_bench(pipeline, pipeline.stages[1], f"{server.url}/")
    assert bench.hardware == machine()
    with bench.serve("read", "r-s", 1.0) as replica:
        assert replica.readiness_s is None and replica.memory_gib() is None
        return replica.infer(items)


def test_items_of_v2_are_sent_as_one_batch_and_split_again() -> None:
    with answering(doubled) as server:
        measured = answer_of(server, [ITEM, ITEM])
    ((path, body),) = server.asked
    assert path == "/v2/models/reader/infer" and body["inputs"][0]["shape"] == [2, 1]
    assert measured.outputs == ({"y": [3.0]}, {"y": [3.0]})
    assert 0 < measured.latency_s < 5


@pytest.mark.parametrize(("status", "body"), [(500, "crashed"), (200, b"<html>")])
def test_a_server_that_fails_ends_the_measurement(status: int, body: Any) -> None:
    with (
        answering(lambda *_: (status, body)) as server,
        pytest.raises(UnavailableError, match=r"/infer: (it answered 500: |the answer is not JSON)"),
    ):
        answer_of(server, [ITEM])


def test_hardware_elsewhere_is_named_by_its_address() -> None:
    pipeline = sample_pipeline()
    stage = pipeline.stages[1]
    assert (
        SELDON.running_bench(pipeline, stage, "http://model.models:9000").hardware
        == "that of model.models:9000"
    )
    with pytest.raises(UsageError, match="is not an http or https URL"):
        SELDON.running_bench(pipeline, stage, "model:9000")
    with pytest.raises(UsageError, match="speaks protocol seldon"):
        SELDON.running_bench(
            with_seldon(pipeline, protocol=WireProtocol.SELDON), stage, "http://127.0.0.1:9000"
        )
    with pytest.raises(UsageError, match="target local cannot measure a server that runs"):
        LOCAL.running_bench(pipeline, stage, "http://127.0.0.1:9000")


BENCH = """
class Workload:
    items = [
        [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [float(number)]}] for number in range(7)
    ]

    def accuracy(self, answers):
        found = zip(answers, self.items)
        return sum(answer["y"] == [2 * item[0]["data"][0]] for answer, item in found) / len(self.items)


def workload(stage, seed):
    return Workload()
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline `sample`, whose first stage has one variant."""
    folder = tmp_path / "benched" / "sample"
    folder.mkdir(parents=True)
    pipeline = sample_pipeline()
    first, *others = pipeline.stages
    own = Variant("only", {"seldon": SeldonRun("registry.example/detect:s")})
    pipeline = replace(pipeline, stages=(replace(first, variants=(own,)), *others))
    (folder / "pipeline.yaml").write_text(dump_pipeline(pipeline))
    (folder / "bench.py").write_text(BENCH)
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(tmp_path / "benched"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_ipa_profile_measures_a_server_at_its_address(files: Path) -> None:
    words = ["profile", "sample", "--stage", "detect", "--cores", "0.5", "--repeats", "5", "--budget", "0.01"]
    with answering(doubled) as server:
        words += ["--batches", "1", "--url", server.url, "--folder", str(files / "profiles" / "sample")]
        assert run(words) == 0
    assert {path for path, _ in server.asked} == {"/v2/models/detect/infer"}
    profile = load_profiles(files / "profiles", "sample")["detect"]
    (variant,) = profile.variants
    assert (variant.variant, variant.accuracy) == ("only", 1.0)
    assert [(point.cores, point.batch_size) for point in variant.points] == [(0.5, 1)]
    assert variant.readiness_s is None and variant.memory_gib is None
    assert "at its address" in profile.method and profile.hardware == machine()


@pytest.mark.parametrize(
    "words", [["--stage", "read", "--cores", "1"], ["--cores", "1"], ["--stage", "detect", "--cores", "1,2"]]
)
def test_one_address_is_one_server(words: list[str], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "sample", *words, "--url", "http://127.0.0.1:9"]) == 64
    assert "--url measures one server" in capsys.readouterr().err
