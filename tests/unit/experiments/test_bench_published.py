"""Base allocation against free cores: rates, frontiers, mixes, and the page made of them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from experiments.published.__main__ import main
from experiments.published.compare import Comparison, Pair, compare, to_json
from experiments.published.data import (
    PIPELINES,
    WORKLOADS,
    Published,
    PublishedCell,
    missing_files,
    peak_rates,
    read_cells,
    runs_of,
)
from experiments.published.mix import cheapest_mix
from experiments.published.page import summary
from ipa.files import load_pipeline, load_profiles


def test_a_tick_plans_for_the_peak_of_the_next_twenty_seconds_and_the_margin() -> None:
    pattern = [1] * 10 + [5] * 10 + [2] * 15
    assert peak_rates(pattern, 0) == (5.0, 5.0, 2.0, 2.0)
    assert peak_rates(pattern, 20) == pytest.approx((6.0, 6.0, 2.4, 2.4))


def run(workload: str, rate_rps: float, **changed: object) -> dict[str, object]:
    row = {
        "series": "18",
        "pipeline": "nlp",
        "system": "ipa",
        "workload": workload,
        "predicted_mean_rps": rate_rps,
        "settings": {"predictor_margin": 0},
    }
    return {**row, **changed}


def test_runs_are_told_apart_by_their_rates_not_by_their_labels() -> None:
    patterns = {"low": [5.0] * 40, "high": [9.0] * 40}
    other = [run("low", 5.0, series="14"), run("low", 5.0, pipeline="video"), run("low", 5.0, system="rim")]
    rows = [run("low", 5.3), run("low", 8.6), *other]
    assert runs_of(rows, "nlp", patterns) == {"low": rows[0], "high": rows[1]}
    with pytest.raises(ValueError, match="two runs of nlp have the rates of low"):
        runs_of([rows[0], run("high", 4.9)], "nlp", patterns)


def test_a_mix_reaches_the_target_within_one_step_of_the_least() -> None:
    random = Random(5)
    for _ in range(50):
        frontiers = {}
        for rate in (1.0, 2.0):
            cores = sorted(random.sample(range(1, 20), 3))
            frontiers[rate] = list(
                zip(map(float, cores), sorted(random.random() for _ in range(3)), strict=True)
            )
        ticks = Counter({1.0: 3, 2.0: 2})
        every = [rate for rate, count in ticks.items() for _ in range(count)]
        target = random.uniform(0.1, 0.9)
        plans = itertools.product(*(frontiers[rate] for rate in every))
        enough = [
            sum(cores for cores, _ in plan) / 5
            for plan in plans
            if sum(worth for _, worth in plan) / 5 >= target
        ]
        found = cheapest_mix(frontiers, ticks, target)
        if not enough:
            assert found is None
            continue
        widest = max(plan[-1][0] - plan[0][0] for plan in frontiers.values())
        assert found is not None
        assert min(enough) - 1e-9 <= found <= min(enough) + widest / 5 + 1e-9


@pytest.fixture(scope="module")
def compared(root: Path) -> Comparison:
    pipeline = load_pipeline(root / "pipelines" / "sum-qa" / "pipeline.yaml")
    objective = replace(pipeline.objective("paper-v3"), name="published")
    cell = PublishedCell("sum-qa", "steady_low", (6.0, 7.0, 7.0), 0, objective, None)
    return compare(cell, pipeline, load_profiles(root / "profiles", "sum-qa"))


def test_free_cores_never_cost_more_and_save_where_base_allocation_is_large(compared: Comparison) -> None:
    for pair in (compared.tick, compared.floor, compared.mean, compared.tail):
        assert pair.base_cores is not None and pair.free_cores is not None
        assert pair.free_cores <= pair.base_cores + 1e-9
    assert compared.tick.saving_ratio is not None and compared.tick.saving_ratio > 0.2
    assert compared.tick_replicas.free_cores > compared.tick_replicas.base_cores
    # Base allocation cannot beat the released rule by more than its own frontier allows.
    assert compared.tick.base_cores <= compared.released_cores + 1e-9
    assert compared.mean.base_cores <= compared.released_cores + 1e-9
    assert compared.target == compared.released_pas
    rate_rps, base, free = compared.example
    assert (rate_rps, base != free) == (7.0, True)


def test_a_published_pas_is_the_target_less_half_a_digit(root: Path) -> None:
    pipeline = load_pipeline(root / "pipelines" / "audio-sent" / "pipeline.yaml")
    objective = replace(pipeline.objective("paper-v3"), name="published")
    log = Published("steady_low", 9.0, 0.999, 8.4)
    cell = PublishedCell("audio-sent", "steady_low", (8.4,), 20, objective, log)
    found = compare(cell, pipeline, load_profiles(root / "profiles", "audio-sent"))
    assert found.target == 0.999 - 0.5e-5
    # No plan is that accurate, so nothing is said of it; the rest stands.
    assert (found.floor, found.mean) == (Pair(None, None), Pair(None, None))
    assert (found.floor.saving_ratio, found.mean_saving_ratio) == (None, None)
    assert found.tick.saving_ratio is not None
    assert to_json(found)["published_pas"] == 0.999
    assert "–" in summary([found])


def test_without_the_data_the_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["published", "--data", str(tmp_path), "--page", str(tmp_path / "page.md")]
    )
    assert main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ipa_published.json" in line and "IPA_SHARED_DATA" in line
    assert not (tmp_path / "page.md").exists()


def test_the_published_data_has_twenty_cells_of_which_twelve_were_run(shared_data: Path) -> None:
    assert missing_files(shared_data) == []
    cells = read_cells(shared_data)
    assert [(cell.pipeline, cell.workload) for cell in cells] == list(itertools.product(PIPELINES, WORKLOADS))
    assert {cell.pipeline for cell in cells if cell.published is None} == {"audio-sent", "sum-qa"}
    assert {len(cell.rates_rps) for cell in cells} == {120}
    published = json.loads((shared_data / "ipa_published.json").read_text())["rows"]
    assert {cell.published.cores for cell in cells if cell.published} <= {
        row["cores_mean"] for row in published
    }
    # Each run was planned for about the rates that are planned for here.
    for cell in cells:
        if cell.published:
            mean_rps = sum(cell.rates_rps) / len(cell.rates_rps)
            assert cell.published.rate_rps == pytest.approx(mean_rps, rel=0.25)
