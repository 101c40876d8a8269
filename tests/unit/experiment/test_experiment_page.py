"""The tables of a report: which policy is nowhere worse than which, and by whose forecast."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.experiment.cells import CellOutcome, CellStore, ExperimentCell, Finished
from ipa.experiment.results import compute
from ipa.experiment.runners import Experiment, PipelineArm, WorkloadArm
from ipa.experiment.simulated import cells, setup_of, work
from ipa.experiment.simulated_page import blocks, differences, grid_of
from ipa.report.blocks import Table
from ipa.simulate.run import ForecastSettings

EXPERIMENT = Experiment(
    "try", "Try", "simulate", Path("try"), Path("pipelines"), Path("profiles"), seeds=(1,), reference="ipa"
)
BOTH = replace(
    EXPERIMENT,
    minutes=0.1,
    pipelines=(PipelineArm("video", "video"),),
    workloads=(WorkloadArm("bursty", like="bursty"),),
    policies=("ours", "ipa"),
    forecasters=("authors", "ladder"),
)


def finished(policy: str, pas: float, cores: float, late: float | None, **labels: str) -> Finished:
    case = {"pipeline": "video", "workload": "bursty", "sla": "own", "world": "as-profiled"}
    case = {**case, "forecaster": "ladder", **labels}
    row = {"pas_mean": pas, "cores_mean": cores, "violation_ratio": late, "sla_s": 1.0}
    return Finished({**case, "policy": policy, "seed": 1}, CellOutcome(row))


@pytest.mark.parametrize(
    ("ipa", "dominates"),
    [
        # Equal in all, or up to rounding: neither.
        ((0.6, 4.0, 0.01), False),
        ((0.1 + 0.5, 4.0 + 1e-12, 0.01), False),
        # A tie in two.
        ((0.6, 4.0, 0.02), True),
        ((0.6, 4.5, 0.01), True),
        ((0.5, 4.0, 0.01), True),
        # Better in one, worse in one.
        ((0.5, 3.9, 0.01), False),
        ((0.61, 9.0, 0.5), False),
        # Nothing is known of a run that sent no request.
        ((0.5, 9.0, None), False),
    ],
)
def test_a_policy_dominates_if_it_is_nowhere_worse_and_somewhere_better(
    ipa: tuple[float, float, float | None], dominates: bool
) -> None:
    grid = grid_of(EXPERIMENT, [finished("ours", 0.6, 4.0, 0.01), finished("ipa", *ipa)])
    assert grid.dominates(grid.cases[0], "ours", "ipa") is dominates
    assert not grid.dominates(grid.cases[0], "ipa", "ours")


def test_a_report_tells_who_dominates_whom_in_which_cases() -> None:
    there = {"workload": "steady_low"}
    made = [finished("ours", 0.6, 4.0, 0.0), finished("ipa", 0.6, 5.0, 0.0)]
    made += [finished("ours", 0.6, 4.0, 0.1, **there), finished("ipa", 0.6, 4.0, 0.0, **there)]
    (table,) = (
        block
        for block in blocks(EXPERIMENT, made)
        if isinstance(block, Table) and block.caption.startswith("Weak dominance")
    )
    rows = [[cell.text for cell in row] for row in table.groups[0]]
    assert rows == [["ours", "ipa", "1 of 2", "bursty"], ["ipa", "ours", "1 of 2", "steady_low"]]


def test_policies_are_compared_under_one_forecaster() -> None:
    made = [
        finished(policy, pas, 4.0, 0.0, forecaster=forecaster)
        for forecaster, worse in (("authors", 0.0), ("ladder", 0.2))
        for policy, pas in (("ours", 0.6), ("ipa", 0.5 - worse))
    ]
    rows = [row for row in differences(EXPERIMENT, made) if row["figure"] == "pas_mean"]
    assert [(row["policy"], row["reference"], round(row["difference"], 9)) for row in rows] == [
        ("ours, authors", "ipa, authors", 0.1),
        ("ours, ladder", "ipa, ladder", 0.3),
    ]


def test_each_side_has_the_forecast_of_its_authors(root: Path, tmp_path: Path) -> None:
    made, _ = cells(replace(BOTH, pipelines_dir=root / "pipelines", profiles_dir=root / "profiles"))
    upper = ForecastSettings().quantile

    def of(policy: str, forecaster: str) -> ExperimentCell:
        (cell,) = (
            it for it in made if (it.labels["policy"], it.labels["forecaster"]) == (policy, forecaster)
        )
        return cell

    assert [of("ipa", name).payload["forecast"]["quantile"] for name in BOTH.forecasters] == [0.5, upper]
    assert {of(policy, "ladder").payload["forecast"]["quantile"] for policy in BOTH.policies} == {upper}
    # What is equal in both is computed once.
    assert of("ours", "authors").digest("1") == of("ours", "ladder").digest("1")
    assert of("ipa", "authors").digest("1") != of("ipa", "ladder").digest("1")
    computed: list[str] = []
    done = compute(made, CellStore(tmp_path, "1"), 1, watch=lambda missing: nullcontext(computed.append))
    assert len(computed) == 3
    assert [each.labels for each in done] == [cell.labels for cell in made]


def test_settings_are_axes_with_columns_of_their_own(root: Path) -> None:
    settings = {"IPA_FORECAST_QUANTILE": [0.5, 0.9], "IPA_CHANGE_PRICE_S": [0, 30], "IPA_PEEK_S": 1}
    folders = {"pipelines_dir": root / "pipelines", "profiles_dir": root / "profiles"}
    experiment = replace(BOTH, forecasters=("ladder",), settings=settings, **folders)
    made, _ = cells(experiment)
    assert len(made) == 2 * 2 * 2
    assert len({cell.digest("1") for cell in made}) == len(made)
    rows = []
    for cell in made:
        setup = setup_of(cell.payload, cell.series)
        assert setup.forecast.quantile == cell.labels["IPA_FORECAST_QUANTILE"]
        assert setup.guards.change_price_s == cell.labels["IPA_CHANGE_PRICE_S"]
        # Only ours reads the load between ticks.
        assert setup.guards.peek_s == (1.0 if cell.labels["policy"] == "ours" else 0.0)
        rows.append(Finished(cell.labels, work(cell.payload, cell.series)))
        assert rows[-1].row["IPA_PEEK_S"] == 1.0
    tables = [block for block in blocks(experiment, rows) if isinstance(block, Table)]
    for table in tables[:2]:
        assert table.header[:3] == ["policy", "IPA_FORECAST_QUANTILE", "IPA_CHANGE_PRICE_S"]
    shown = [[cell.text for cell in row[:3]] for row in tables[1].groups[0]]
    assert shown == [["ours", quantile, price] for quantile in ("0.5", "0.9") for price in ("0.0", "30.0")]
    # Each is compared with the reference of the same settings.
    compared = {(row["policy"], row["reference"]) for row in differences(experiment, rows)}
    assert all(reference == f"ipa, {policy.partition(', ')[2]}" for policy, reference in compared)
