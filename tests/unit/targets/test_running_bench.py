"""A server that runs is measured at its address, by the call that its orchestrator makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.cli.main import run
from ipa.files import dump_pipeline, load_profiles
from ipa.model.errors import UnavailableError, UsageError
from ipa.model.pipeline import Pipeline, Stage, StageKind, Variant
from ipa.targets.local.target import LOCAL
from ipa.targets.requests import machine
from ipa.targets.seldon.section import SeldonRun, ServerKind, WireProtocol, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.fakes.answering import answering
from tests.fakes.kube.samples import sample_pipeline

ITEM: Any = [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]
MESSAGE: Any = {"data": {"ndarray": [[1.5]]}}


def doubled(_path: str, body: Any) -> tuple[int, Any]:
    """The answer of a V2 server: each row twice."""
    (tensor,) = body["inputs"]
    data = [2 * value for value in tensor["data"]]
    return 200, {"outputs": [{**tensor, "name": "y", "data": data}]}


def echoed(_path: str, body: Any) -> tuple[int, Any]:
    return 200, body


def of_kind(kind: StageKind, protocol: WireProtocol) -> tuple[Pipeline, Stage]:
    pipeline = with_seldon(sample_pipeline(), protocol=protocol)
    return pipeline, replace(pipeline.stages[1], kind=kind)


@pytest.mark.parametrize(
    ("kind", "protocol", "path"),
    [
        (StageKind.MODEL, WireProtocol.V2, "/v2/models/reader/infer"),
        (StageKind.TRANSFORMER, WireProtocol.V2, "/v2/models/reader/infer"),
        (StageKind.ROUTER, WireProtocol.V2, "/v2/models/reader/route"),
        (StageKind.COMBINER, WireProtocol.V2, "/v2/models/reader/aggregate"),
        (StageKind.MODEL, WireProtocol.SELDON, "/predict"),
        (StageKind.TRANSFORMER, WireProtocol.SELDON, "/transform-input"),
        (StageKind.OUTPUT_TRANSFORMER, WireProtocol.SELDON, "/transform-output"),
        (StageKind.ROUTER, WireProtocol.SELDON, "/route"),
        (StageKind.COMBINER, WireProtocol.SELDON, "/aggregate"),
    ],
)
def test_the_call_is_that_of_the_node_s_type(kind: StageKind, protocol: WireProtocol, path: str) -> None:
    pipeline, stage = of_kind(kind, protocol)
    is_inferred = path.endswith("/infer")
    with answering(doubled if is_inferred else echoed) as server:
        bench = SELDON.running_bench(pipeline, stage, f"{server.url}/")
        with bench.serve("read", "r-s", 1.0) as replica:
            measured = replica.infer([ITEM if is_inferred else MESSAGE])
            assert replica.readiness_s is None and replica.memory_gib() is None
    assert server.asked == [(path, {"inputs": ITEM} if is_inferred else MESSAGE)]
    assert measured.outputs == (({"y": [3.0]},) if is_inferred else (MESSAGE,))
    assert 0 < measured.latency_s < 5
    assert bench.hardware == machine()


def test_items_of_v2_are_sent_as_one_batch_and_split_again() -> None:
    pipeline, stage = of_kind(StageKind.MODEL, WireProtocol.V2)
    with (
        answering(doubled) as server,
        SELDON.running_bench(pipeline, stage, server.url).serve("read", "r-s", 1.0) as it,
    ):
        measured = it.infer([ITEM, ITEM])
    assert server.asked[0][1]["inputs"][0]["shape"] == [2, 1]
    assert measured.outputs == ({"y": [3.0]}, {"y": [3.0]})


@pytest.mark.parametrize(("status", "body"), [(500, "crashed"), (200, b"<html>")])
def test_a_server_that_fails_ends_the_measurement(status: int, body: Any) -> None:
    pipeline, stage = of_kind(StageKind.MODEL, WireProtocol.SELDON)
    with (
        answering(lambda *_: (status, body)) as server,
        SELDON.running_bench(pipeline, stage, server.url).serve("read", "r-s", 1.0) as replica,
        pytest.raises(UnavailableError, match=r"/predict: (it answered 500: |the answer is not JSON)"),
    ):
        replica.infer([MESSAGE])


def test_hardware_elsewhere_is_named_by_its_address() -> None:
    pipeline, stage = of_kind(StageKind.MODEL, WireProtocol.V2)
    assert (
        SELDON.running_bench(pipeline, stage, "http://model.models:9000").hardware
        == "that of model.models:9000"
    )
    with pytest.raises(UsageError, match="is not an http or https URL"):
        SELDON.running_bench(pipeline, stage, "model:9000")
    with pytest.raises(UsageError, match="target local cannot measure a server that runs"):
        LOCAL.running_bench(pipeline, stage, "http://127.0.0.1:9000")


BENCH = """
class Workload:
    items = [{"data": {"ndarray": [[float(number)]]}} for number in range(7)]

    def accuracy(self, answers):
        return sum(answer == item for answer, item in zip(answers, self.items)) / len(self.items)


def workload(stage, seed):
    return Workload()
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline `sample`, whose stages are microservices."""
    folder = tmp_path / "benched" / "sample"
    folder.mkdir(parents=True)
    pipeline = sample_pipeline()
    first, *others = pipeline.stages
    own = Variant("only", {"seldon": SeldonRun("registry.example/detect:s", server=ServerKind.MICROSERVICE)})
    pipeline = replace(pipeline, stages=(replace(first, variants=(own,)), *others))
    (folder / "pipeline.yaml").write_text(dump_pipeline(with_seldon(pipeline, protocol=WireProtocol.SELDON)))
    (folder / "bench.py").write_text(BENCH)
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(tmp_path / "benched"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_ipa_profile_measures_a_server_at_its_address(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["profile", "sample", "--stage", "detect", "--cores", "0.5", "--repeats", "5", "--budget", "0.01"]
    with answering(echoed) as server:
        assert run([*words, "--url", server.url, "--folder", str(files / "profiles" / "sample")]) == 0
        # Larger batches are not measured unless they are asked for, and then refused.
        assert run([*words, "--url", server.url, "--batches", "1,2"]) == 64
    assert "batch size 2 has no effect" in capsys.readouterr().err
    assert {path for path, _ in server.asked} == {"/predict"}
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
