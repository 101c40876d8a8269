"""Experiment files: what is wrong is said with its line, all at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipa.experiment.reading import find_experiment, find_experiments, load_experiment
from ipa.experiment.runners import runner_of
from ipa.model.errors import InputError, UsageError

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = ROOT / "experiments"
FOLDERS = {"pipelines_dir": ROOT / "pipelines", "profiles_dir": ROOT / "profiles"}
GOOD = """\
apiVersion: ipa/v1
kind: Experiment
name: try
title: A try
runner: simulate
minutes: 2
seeds: [1, 2, 3]
pipelines:
  - video
  - {pipeline: nlp, objective: paper-v3}
workloads:
  - bursty
  - {name: calm, like: steady_low, scale: 0.5}
slas: [own, 1.5x, 800ms]
policies: [ours, ipa]
reference: ipa
quick: {seeds: [1], slas: [own]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_experiment(write(folder, text), **FOLDERS)
    return [f"{problem.line}: {problem.message}" for problem in caught.value.problems]


def test_all_is_read(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD), **FOLDERS)
    assert experiment.seeds == (1, 2, 3)
    assert [(arm.pipeline, arm.objective) for arm in experiment.pipelines] == [
        ("video", None),
        ("nlp", "paper-v3"),
    ]
    assert [(arm.name, arm.like, arm.scale) for arm in experiment.workloads] == [
        ("bursty", "bursty", 1.0),
        ("calm", "steady_low", 0.5),
    ]
    assert experiment.slas == ("own", "1.5x", "800ms")


def test_the_quick_form_replaces(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD), quick=True, **FOLDERS)
    assert (experiment.seeds, experiment.slas, experiment.policies) == ((1,), ("own",), ("ours", "ipa"))


def test_every_problem_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("  - video", "  - vidoe")
        .replace("[ours, ipa]", "[ours, ippa]")
        .replace("bursty", "burtsy")
        .replace("objective: paper-v3", "objective: paper-v2")
        .replace("minutes: 2", "minutes: 0")
        .replace("1.5x", "1.5")
    )
    messages = problems(tmp_path, text)
    assert [each.split(":")[0] for each in messages] == ["6", "9", "10", "12", "14", "15", "16"]
    assert "minutes is 0; it must be greater than 0" in messages[0]
    assert "did you mean 'video'?" in messages[1]
    assert "nlp has no objective 'paper-v2'; did you mean" in messages[2]
    assert "did you mean 'bursty'?" in messages[3]
    assert "expected own (that of the pipeline), a multiple" in messages[4]
    assert "there is no policy 'ippa'; did you mean 'ipa'?" in messages[5]
    assert "reference 'ipa' is not among policies; add it there" in messages[6]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "seeds has 1 twice"),
        ("seeds: [1, 2, 3]", "seed: [1]", "unknown key 'seed'; did you mean 'seeds'?"),
        ("policies: [ours, ipa]\n", "", "runner simulate needs the key 'policies'; add it"),
        (
            "like: steady_low",
            "like: bursty, trace: x.txt",
            "exactly one of like, trace, shared; there is like and",
        ),
        ("like: steady_low", "trace: x.txt", "x.txt; the path starts from this file's folder"),
        ("like: steady_low, ", "", "expected exactly one of like, trace, shared; there is none"),
        ("{name: calm,", "{name: bursty,", "name 'bursty' occurs twice; give one of them another `name`"),
        ("nlp, objective: paper-v3", "video, fan_out: {crop: {yolov5n: 2}}", "fan_out of crop lacks yolov5s"),
        (
            "nlp, objective: paper-v3",
            "video, name: v, fan_out: {crob: 2}",
            "no stage 'crob'; did you mean 'crop'?",
        ),
        ("runner: simulate", "runner: dream", "there is no runner 'dream'; known: simulate"),
    ],
)
def test_a_problem(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    messages = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(says in each for each in messages), messages


def test_the_experiments_of_the_repository_can_be_read() -> None:
    known = find_experiments(EXPERIMENTS)
    assert {"ipa-paper", "ipa-tight", "infadapter", "forecast", "fan-out", "scale", "what-if"} <= set(known)
    for name, path in known.items():
        for quick in (False, True):
            assert load_experiment(path, quick=quick, **FOLDERS).name == name


def test_an_unknown_experiment() -> None:
    with pytest.raises(UsageError, match="did you mean 'ipa-paper'"):
        find_experiment("ipa-papr", EXPERIMENTS)
    assert find_experiment("mine/experiment.yaml", EXPERIMENTS) == Path("mine/experiment.yaml")


@pytest.mark.parametrize("path", find_experiments(EXPERIMENTS).values(), ids=lambda path: path.parent.name)
def test_every_experiment_has_cells_that_are_kept_as_json(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPA_SHARED_DATA", str(tmp_path))
    experiment = load_experiment(path, quick=True, **FOLDERS)
    cells, notes = runner_of(experiment.runner).cells(experiment)
    assert cells or notes
    assert len({cell.digest("x") for cell in cells}) == len(cells)
    for cell in cells:
        assert json.loads(json.dumps(cell.payload)) == cell.payload
