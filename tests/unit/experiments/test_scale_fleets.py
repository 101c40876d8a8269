"""Fleets over a day, small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments.forecast.runner import made_up_days
from experiments.scale.fleets import WAYS, work
from ipa.experiment.cells import CellOutcome

PAYLOAD = {"pipelines": 6, "seed": 3, "hours": 6.0, "interval_s": 3600.0, "budget_ratio": 0.5}


@pytest.fixture(scope="module")
def days() -> dict[str, CellOutcome]:
    return {way: work({**PAYLOAD, "way": way}, {}) for way in WAYS}


def test_the_budget_holds_at_every_interval(days: dict[str, CellOutcome]) -> None:
    budgets = {way: day.row["budget_cores"] for way, day in days.items()}
    assert len(set(budgets.values())) == 1
    for way, day in days.items():
        assert len(day.ticks["cost_cores"]) == 6, way
        assert max(day.ticks["cost_cores"]) <= budgets[way] + 1e-6


def test_planned_together_is_worth_most(days: dict[str, CellOutcome]) -> None:
    worths: dict[str, Any] = {way: np.array(day.ticks["worth"]) for way, day in days.items()}
    # Whatever fixed shares allow, one plan of all may choose as well: at equal rates, so at every interval.
    assert (worths["together"] >= worths["apart"] - 1e-6).all()
    assert days["once"].row["lost_ratio"] == 0.0
    assert days["once"].row["changes_an_interval"] == 0.0


def test_the_same_day_again(days: dict[str, CellOutcome]) -> None:
    again = work({**PAYLOAD, "way": "together"}, {})
    assert again.row == days["together"].row
    assert again.ticks == days["together"].ticks


def test_made_up_days() -> None:
    counts = made_up_days(2)
    assert len(counts) == 2 * 86_400
    assert counts == made_up_days(2)
    hours = np.array(counts).reshape(48, 3600).mean(axis=1)
    assert hours.max() > 2.5 * hours.min()
