"""InfAdapter's published task: the optimum is that of all splits, at every load and β of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.sets.published import SCALES, SOURCES, Splits, read_published


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_load_and_beta_is_as_by_enumeration(shared_data: Path, source: str, scale: str) -> None:
    from ipa.optimize.set_solve import solve_set

    published = read_published(shared_data / "infadapter.json")
    assert published.betas == (0.0125, 0.05, 0.2)
    splits = Splits(published.problem(1.0, 0.05, scale, source))
    names = list(published.variants)
    several = 0
    for index, rate_rps in enumerate(range(5, 401, 15)):
        loaded = tuple(name for at, name in enumerate(names) if index >> at & 1)
        for beta in published.betas:
            problem = published.problem(float(rate_rps), beta, scale, source, loaded)
            plan = solve_set(problem)
            expected, missing_rps = splits.best(problem)
            if expected is None:
                assert plan.objective is None, (rate_rps, beta)
                assert plan.missing_rps == pytest.approx(missing_rps, rel=1e-9), (rate_rps, beta)
            else:
                assert plan.objective == pytest.approx(expected, abs=1e-9), (rate_rps, beta)
                several += len(plan.parts) > 1
    assert several > 0
    assert solve_set(published.problem(400.0, 0.05, scale, source)).missing_rps > 0
