"""Stages are fitted once for many what-ifs, and anew where what they are fitted from is another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.model.profile import OperatingPoint, StageProfile
from ipa.optimize.problem import Compat
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation
from tests.fakes.world import PIPELINE, PROFILES


def test_what_ifs_that_differ_in_rate_or_sla_share_their_stages() -> None:
    first = planning_problem(PIPELINE, PROFILES, 5.0)
    objective = replace(PIPELINE.objective(None), sla_s=0.5)
    tighter = replace(PIPELINE, objectives={**PIPELINE.objectives, objective.name: objective})
    again = planning_problem(tighter, PROFILES, 9.0)
    assert (again.rate_rps, again.sla_s) == (9.0, 0.5)
    assert [one is other for one, other in zip(first.stages, again.stages, strict=True)] == [True, True]


def slower(profile: StageProfile) -> StageProfile:
    return replace(
        profile,
        variants=tuple(
            replace(
                each, points=tuple(replace(point, latency_s=2 * point.latency_s) for point in each.points)
            )
            for each in profile.variants
        ),
    )


def test_what_a_stage_is_fitted_from_is_looked_at_anew_each_time() -> None:
    def points(**options: object) -> list[tuple[OperatingPoint, ...]]:
        made = planning_problem(PIPELINE, PROFILES, 5.0, **options)  # type: ignore[arg-type]
        return [stage.points for stage in made.stages]

    before = points()
    measured_anew = {name: slower(profile) for name, profile in PROFILES.items()}
    slow = planning_problem(PIPELINE, measured_anew, 5.0)
    assert slow.stages[0].points[0].latency_s == pytest.approx(2 * before[0][0].latency_s)
    narrow = replace(PIPELINE, bounds=replace(PIPELINE.bounds, batch_sizes=(2,)))
    sizes = {point.batch_size for point in planning_problem(narrow, PROFILES, 5.0).stages[0].points}
    assert sizes == {2}
    assert points(allocation=Allocation.BASE) != before
    assert points(compat=Compat.IPA_ARTIFACT) != before
    assert points() == before
