"""The figures by which a run on this machine is put beside its simulation."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.fidelity.figures import Figures, compared, figures_of, mean_of


def test_lost_requests_have_no_latency_and_are_not_within_the_sla() -> None:
    latencies_s = np.array([0.1, 0.2, 0.3, np.nan])
    seen = figures_of(latencies_s, 0.25, 0.9, 12.0)
    assert seen.latency_p50_s == pytest.approx(0.2)
    assert seen.within_sla_ratio == 0.5
    assert (seen.accuracy, seen.core_seconds) == (0.9, 12.0)


def test_differences_are_those_of_the_mean_of_the_simulated_runs() -> None:
    real = Figures(0.2, 0.5, 1.0, 0.8, 100.0)
    simulated = [Figures(0.1, 0.5, 1.0, 0.8, 110.0), Figures(0.2, 0.7, 1.0, 0.8, 110.0)]
    rows = {row["figure"]: row for row in compared(real, simulated)}
    assert rows["latency_p50_s"]["difference_ratio"] == pytest.approx(-0.25)
    assert rows["latency_p99_s"]["difference_ratio"] == pytest.approx(0.2)
    assert (rows["latency_p99_s"]["simulated_least"], rows["latency_p99_s"]["simulated_most"]) == (0.5, 0.7)
    assert rows["core_seconds"]["difference_ratio"] == pytest.approx(0.1)
    assert mean_of(simulated).latency_p50_s == pytest.approx(0.15)


def test_what_was_nothing_has_no_relative_difference() -> None:
    nothing = Figures(0.2, 0.5, 0.0, 0.8, 100.0)
    rows = {row["figure"]: row for row in compared(nothing, [nothing])}
    assert rows["within_sla_ratio"]["difference_ratio"] is None
