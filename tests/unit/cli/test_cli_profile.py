"""`ipa profile` and its profiles: the defaults pass `ipa fit`, and every command tells of doubtful ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from ipa.bootstrap import targets
from ipa.files import load_profile
from ipa.model.errors import ExitCode
from ipa.profiling.measure import BatchMeasurement, Item
from tests.fakes.commands import Ipa

PIPELINE = """
apiVersion: ipa/v1
kind: Pipeline
name: shop
sla: {latency: 5s}
graph: [detect]
objectives: {default: {alpha: 1, beta: 0.1}}
stages:
  - name: detect
    variants: [{name: small}, {name: large}]
"""
BENCH = """
class Workload:
    items = [[{"name": "x", "shape": [1], "datatype": "FP64", "data": [float(n)]}] for n in range(4)]

    def accuracy(self, answers):
        return answers[0]["y"][0]


def workload(stage, seed):
    return Workload()
"""
ACCURACY = {"small": 0.7, "large": 0.9}
# Seconds of one core for a batch and for each item of it.
COSTS = {"small": (0.002, 0.001), "large": (0.008, 0.006)}


@dataclass
class Machine:
    """Its batches scatter, by far more once others use `foreign` cores."""

    foreign: float = 0.0
    random: Random = field(default_factory=lambda: Random(4))
    hardware: str = "a virtual machine"
    method: str = "made up"
    readiness_s: float = 1.0
    variant: str = "small"
    cores: float = 1.0

    @contextmanager
    def serve(self, stage: str, variant: str, cores: float, within_s: float = 60.0) -> Iterator[Machine]:
        self.variant, self.cores = variant, cores
        yield self

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        batch_s, item_s = COSTS[self.variant]
        took_s = (batch_s + item_s * len(items)) / self.cores * self.random.lognormvariate(0.0, 0.1)
        # Rarely a timer or the garbage collector, often another process.
        if self.random.random() < 0.02 + 0.3 * self.foreign:
            took_s += self.random.expovariate(1 / (0.3 * took_s + self.foreign))
        return BatchMeasurement(took_s, tuple({"y": [ACCURACY[self.variant]]} for _ in items))

    def memory_gib(self) -> float:
        return 0.5


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    @contextmanager
    def bench(*_: object) -> Iterator[Machine]:
        yield made

    folder = tmp_path / "shops" / "shop"
    folder.mkdir(parents=True)
    for each in (folder.parent, folder):
        (each / "__init__.py").touch()
    (folder / "bench.py").write_text(BENCH)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(folder.parent))
    monkeypatch.setenv("IPA_PROFILES_DIR", str(tmp_path / "profiles"))
    monkeypatch.setattr(targets, "measurement_bench", bench)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profiles" / "shop" / "detect.yaml"


def test_what_the_defaults_measure_passes_fit_and_validate(machine: Machine, ipa: Ipa) -> None:
    assert "warning" not in ipa("profile", "shop", "--write").err
    assert ipa("fit", "shop", "--strict").out.splitlines()[-1] == "No findings."
    assert [line.split()[0] for line in ipa("validate").out.splitlines()] == ["OK", "OK"]
    assert ipa("plan", "shop", "--rate", "10").err == ""


def test_a_profile_measured_beside_others_is_told_by_all_commands(
    machine: Machine, file: Path, ipa: Ipa
) -> None:
    machine.foreign = 0.9
    warnings = ipa("profile", "shop", "--write").err
    assert warnings.count("the p99 scatters: measure longer, or on an idle machine") > 12
    words = "poor latency fits: "
    assert f"warning: the profile of detect is not credible: {words}" in warnings

    shown = ipa("fit", "shop", "--strict", code=ExitCode.INFEASIBLE).out
    assert "poor fit of latency" in shown
    assert "→ measure longer, and at more batch sizes: ipa profile shop --write --repeats 4000" in shown

    out, err = ipa("validate", str(file))
    assert out.startswith(f"WARNING {file}: 2 variants, 24 points")
    assert f"warning: {file}: it is not credible: " in err
    assert words in err
    (checked,) = json.loads(ipa("validate", str(file), "-o", "json").out)
    assert checked["ok"] is True
    assert any(words in doubt for doubt in checked["doubts"])

    (line,) = ipa("plan", "shop", "--rate", "10").err.splitlines()
    assert line.startswith("warning: the plan rests on profiles that are not credible: detect (")
    assert line.endswith(": ipa fit shop")


def test_a_profile_that_can_be_believed_is_not_replaced_by_one_that_cannot(
    machine: Machine, file: Path, ipa: Ipa
) -> None:
    ipa("profile", "shop", "--write")
    good = file.read_text()
    machine.foreign = 0.9
    again = ["profile", "shop", "--write"]
    out, err = ipa(*again, code=ExitCode.INFEASIBLE)
    assert file.read_text() == good
    assert "the profile of detect was not replaced: it is credible, the new one is not" in err
    assert "throughput: " in out, "what was measured is printed"
    ipa(*again, "--force")
    assert file.read_text() != good
    ipa(*again)


def test_force_is_for_write(machine: Machine, ipa: Ipa) -> None:
    assert "--force needs --write" in ipa("profile", "shop", "--force", code=ExitCode.USAGE).err


def test_only_what_plans_rest_on_is_measured_next(machine: Machine, file: Path, ipa: Ipa) -> None:
    ipa("profile", "shop", "--write")
    whole = ipa("plan", "shop", "--rate", "20", "-o", "json").out
    file.unlink()
    said = ipa("profile", "shop", "--next", "10:40", "--write").err
    count = sum(len(each.points) for each in load_profile(file).variants)
    assert f"{count} points are enough to plan for 10:40 rps; the whole grid has 24" in said
    assert count <= 12
    chosen = [
        [(it["variant"], it["batch_size"], it["cores"], it["replicas"]) for it in json.loads(plan)["stages"]]
        for plan in (whole, ipa("plan", "shop", "--rate", "20", "-o", "json").out)
    ]
    assert chosen[0] == chosen[1]


def test_what_was_measured_on_this_machine_is_not_measured_again(
    machine: Machine, file: Path, ipa: Ipa
) -> None:
    ipa("profile", "shop", "--next", "10:40", "--write")
    before = file.read_text()
    assert "wrote" not in ipa("profile", "shop", "--next", "10:40", "--write").err
    assert file.read_text() == before
    machine.hardware = "another machine"
    assert f"wrote {file}" in ipa("profile", "shop", "--next", "10:40", "--write").err


def test_rates_are_of_the_whole_pipeline(machine: Machine, ipa: Ipa) -> None:
    err = ipa("profile", "shop", "--next", "1:2", "-s", "detect", code=ExitCode.USAGE).err
    assert "leave out --stage and --variants" in err
