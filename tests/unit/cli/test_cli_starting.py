"""`ipa init`, `ipa import` and `ipa demo`: what they write, start and leave alone."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ipa.bootstrap.targets import ServeOptions
from ipa.cli.main import run
from ipa.cli.verbs import serve
from ipa.dataplane.runtime import StageRuntime
from ipa.files import load_pipeline
from ipa.files.pipelines import packaged_example
from ipa.model.errors import UnavailableError
from ipa.service.measuring import bench_workload
from ipa.service.simulation import as_served
from ipa.settings import Settings
from ipa.simulate.run import simulate
from ipa.targets.base import target_named
from ipa.targets.local.section import local_of
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.section import seldon_of
from ipa.targets.seldon.target import SELDON
from tests.fakes.commands import Ipa
from tests.fakes.kube import FakeKube

INIT = [
    "init",
    "shop",
    "--stage",
    "detect=small,large",
    "--stage",
    "read=base",
    "--cores",
    "16",
    "-n",
    "shops",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_init_writes_a_model_and_a_bench_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder of its own, since Python keeps the modules that it loaded.
    monkeypatch.setenv("IPA_PIPELINES_DIR", "pipes_here")
    monkeypatch.setenv("IPA_PROFILES_DIR", "profiles")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert run(INIT) == 0
    pipeline = load_pipeline(Path("pipes_here/shop/pipeline.yaml"))
    for stage in pipeline.stages:
        bench = bench_workload(Path("pipes_here"), "shop", stage.name, seed=3)
        local = local_of(stage.variants[0])
        assert local is not None
        module, _, name = local.implementation.rpartition(".")
        kind = getattr(import_module(module), name)
        assert issubclass(kind, StageRuntime)
        model = kind.__new__(kind)
        model.load_model({**local.parameters, "seconds": "0"})
        given = {tensor["name"]: np.array(tensor["data"] * 2) for tensor in bench.items[0]}
        outputs = model.predict_batch(given)
        assert outputs["value"].shape == (2, 1)
        # What it answers is what the next stage takes, and right.
        assert {spec.name for spec in kind.gives} == set(given) == {spec.name for spec in kind.takes}
        assert bench.accuracy([{"value": row} for row in outputs["value"]]) == 1.0
    before = Path("pipes_here/shop/bench.py").read_text()
    Path("pipes_here/shop/bench.py").write_text("mine")
    assert run(INIT) == 4
    assert Path("pipes_here/shop/bench.py").read_text() == "mine" != before


@pytest.mark.usefixtures("here")
def test_what_init_writes_lacks_only_its_profiles(ipa: Ipa) -> None:
    missing = "stage 'detect' has no profile; expected profiles/shop/detect.yaml"
    out = ipa(*INIT).out
    assert "wrote pipelines/shop/pipeline.yaml" in out and missing in out
    assert "next: ipa profile shop --write; then ipa plan shop --rate 10" in out
    assert missing in ipa("validate", code=65).err
    pipeline = load_pipeline(Path("pipelines/shop/pipeline.yaml"))
    assert [variant.name for variant in pipeline.stages[0].variants] == ["small", "large"]
    assert pipeline.bounds.cores == 16
    assert seldon_of(pipeline) is not None
    assert (seldon_of(pipeline).name, seldon_of(pipeline).namespace) == ("shop", "shops")


def test_an_editor_finds_the_schema(here: Path) -> None:
    assert run(INIT) == 0
    path = here / "pipelines/shop/pipeline.yaml"
    first, *rest = path.read_text().splitlines()
    schema = path.parent / first.partition("$schema=")[2]
    assert json.loads(schema.read_text())["$schema"].startswith("https://json-schema.org/draft/2020-12")
    assert any("#" in line for line in rest)


def test_init_leaves_alone_what_is_there_unless_forced(here: Path, ipa: Ipa) -> None:
    ipa(*INIT)
    file = here / "pipelines/shop/pipeline.yaml"
    file.write_text("mine")
    err = ipa(*INIT, code=4).err
    assert "pipelines/shop/pipeline.yaml: is there" in err
    assert "--force" in err
    assert file.read_text() == "mine"
    printed = json.loads(ipa(*INIT, "--force", "-o", "json").out)
    assert "pipelines/shop/pipeline.yaml" in printed["written"]
    assert load_pipeline(file).name == "shop"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["shop"], 64, "--stage is needed"),
        (["shop", "--stage", "detect"], 64, "NAME=VARIANT"),
        (["Shop!", "--stage", "a=b"], 65, 'name is "Shop!"'),
        (["shop", "--stage", "a=b", "--stage", "a=c"], 65, "twice"),
        (["shop", "--stage", "a=b", "--sla", "fast"], 65, 'latency is "fast"'),
    ],
)
def test_what_no_file_may_say_is_said_and_nothing_written(
    arguments: list[str], code: int, words: str, here: Path, ipa: Ipa
) -> None:
    assert words in ipa("init", *arguments, code=code).err
    assert list(here.iterdir()) == []


@pytest.fixture
def video(root: Path) -> Path:
    return root / "pipelines" / "video" / "seldondeployment.yaml"


def test_what_is_imported_from_a_file_differs_in_nothing_from_it(here: Path, video: Path, ipa: Ipa) -> None:
    printed = json.loads(ipa("import", "-f", str(video), "--sla", "900ms", "-o", "json").out)
    assert [config["variant"] for config in printed["running"]] == ["yolov5n", "resnet18"]
    assert load_pipeline(here / "pipelines/video/pipeline.yaml").sla.latency_s == 0.9
    (here / "runs.json").write_text(json.dumps({"stages": printed["running"]}))
    # What runs is what is planned: not a field of the manifest would change.
    out = ipa("render", "video", "--plan", "runs.json").out
    assert yaml.safe_load(out) == yaml.safe_load(video.read_text())


def test_what_is_imported_from_a_cluster_is_what_runs_there(here: Path, root: Path, ipa: Ipa) -> None:
    pipeline = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    with FakeKube() as kube:
        kube.store.create("seldondeployments", "models", render(pipeline, SELDON.smallest(pipeline)))
        kube.tick(5)
        at = ["--at", f"kubernetes:{kube.kubeconfig(here)}"]
        out = ipa("import", "-n", "models", *at).out
        assert "runs  crop=yolov5n b1 1×1 core" in out
        assert seldon_of(load_pipeline(here / "pipelines/video/pipeline.yaml")).namespace == "models"  # type: ignore[union-attr]
        ipa("import", "nope", "-n", "models", *at, code=1)
        err = ipa("import", "-n", "elsewhere", *at, code=1).err
        assert "there is no SeldonDeployment in namespace elsewhere" in err
        kube.denied = {("list", "seldondeployments"), ("get", "seldondeployments")}
        ipa("import", "-n", "models", *at, "--force", code=77)
        assert not [one for one in kube.writes if one.resource == "seldondeployments"]


def _documents(path: Path, *documents: Any) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_of_several_in_a_file_one_is_chosen_by_name(here: Path, video: Path, ipa: Ipa) -> None:
    one = yaml.safe_load(video.read_text())
    other = {**one, "metadata": {"name": "other"}}
    path = _documents(here / "both.yaml", {"kind": "Service"}, one, other)
    assert "Name one of: other, video" in ipa("import", "-f", path, code=64).err
    ipa("import", "other", "-f", path)
    ipa("import", "third", "-f", path, code=1)
    assert seldon_of(load_pipeline(here / "pipelines/other/pipeline.yaml")).name == "other"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a: [", 65, "is not YAML"),
        ("kind: Service", 1, "has no SeldonDeployment"),
        ("{kind: SeldonDeployment, metadata: {name: x}}", 65, "no predictor that serves"),
        ("{kind: SeldonDeployment, metadata: {name: x}, spec: {predictors: [7]}}", 65, "is incomplete"),
    ],
)
def test_a_file_that_holds_none_is_refused_and_nothing_written(
    text: str, code: int, words: str, here: Path, ipa: Ipa
) -> None:
    (here / "file.yaml").write_text(text)
    assert words in ipa("import", "-f", "file.yaml", code=code).err
    assert [path.name for path in here.iterdir()] == ["file.yaml"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("at", "code"), [("http://127.0.0.1:1", 64), ("kubernetes:nowhere", 78)])
def test_where_there_is_no_cluster(at: str, code: int) -> None:
    assert run(["import", "x", "--at", at]) == code


# What a guest looks at first: half a minute of the demo, which is five of its simulated ones.
FIRST_S = 300


@pytest.fixture
def demo_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, ServeOptions]]:
    runs: list[tuple[Settings, ServeOptions]] = []
    monkeypatch.setattr(serve, "run_service", lambda *arguments: runs.append(arguments[:2]))
    return runs


def test_it_says_which_settings_of_a_real_service_it_ignores(
    demo_runs: list[tuple[Settings, ServeOptions]], monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    monkeypatch.setenv("IPA_AUTH", "keys")
    monkeypatch.setenv("IPA_TARGET", "kubernetes")
    assert "ipa: the demo ignores IPA_TARGET, IPA_AUTH\n" in ipa("demo").err
    (settings, _), *_ = demo_runs
    assert (settings.auth, settings.target) == ("", "simulated")
    monkeypatch.delenv("IPA_AUTH")
    monkeypatch.delenv("IPA_TARGET")
    assert "ignores" not in ipa("demo").err


@pytest.mark.parametrize("rates", ["2:18", "6:6", "5:30"])
def test_the_first_half_minute_is_in_time(
    rates: str, demo_runs: list[tuple[Settings, ServeOptions]], ipa: Ipa
) -> None:
    assert ("The load is steady." in ipa("demo", "--rates", rates).out) == (rates == "6:6")
    (settings, options), *_ = demo_runs
    assert options.simulated is not None
    load = tuple(options.simulated.rates_rps[:FIRST_S].tolist())
    assert options.start_rate_rps == max(load[: serve.START_S])
    pipeline, profiles = packaged_example()
    setup = as_served(pipeline, profiles, load, settings, target_named("simulated"))
    result = simulate(replace(setup, start_s=serve.START_S))
    summary: dict[str, Any] = result.summary()
    assert summary["violation_ratio"] < 0.01
    # The page scales its latency axis to the longest.
    assert summary["latency_max_s"] < 2 * result.sla_s


def test_its_time_begins_when_all_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[float] = []

    def build(settings: Settings, options: ServeOptions) -> Any:
        assert options.simulated is not None
        built.append(options.simulated.elapsed_s)
        assert options.simulated.began_s is None
        raise UnavailableError("enough")

    monkeypatch.setattr("ipa.bootstrap.app.build", build)
    assert run(["demo", "--port", "0"]) == 1
    assert built == [0.0]
