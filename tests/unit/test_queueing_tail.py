"""The latency quantile of a stage: closed forms and bounds."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.queueing.tail import path_quantile_s, sojourn


def test_an_idle_stage_takes_its_service_time() -> None:
    stage = sojourn(1, 4, 0.2, 0.2, 1e-3)
    assert float(stage.quantile_s) == pytest.approx(0.2, rel=0.05)


def test_a_stage_that_cannot_carry_the_rate_takes_for_ever() -> None:
    stage = sojourn(4, 2, 0.1, 0.12, np.array([79.0, 80.0, 90.0]))
    assert np.isinf(stage.quantile_s).tolist() == [False, True, True]


def test_a_path_of_one_stage_has_that_stages_quantile() -> None:
    stage = sojourn(np.array([1, 8]), 2, 0.1, 0.13, 12.0)
    path = path_quantile_s(stage.mean_s[:, None], stage.excess_s[:, None])
    assert path == pytest.approx(stage.quantile_s)
