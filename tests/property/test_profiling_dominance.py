"""What holds of dominated variants, and of findings, whatever was measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.pipeline import Bounds, Objective, Pipeline, Sla, Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.optimize.problem import Compat
from ipa.policies.planning import plan_pipeline
from ipa.profiling.dominance import dominated
from ipa.profiling.findings import findings
from ipa.profiling.lint import Oddity, lint_profile
from tests.amounts import many

# No time limit on a busy machine, and the same examples on every one.
STEADY = settings(deadline=None, derandomize=True, max_examples=many(30))
TODAY = date(2026, 11, 24)
NAMES = ("a", "b", "c")
BATCHES = (1, 2, 8)


@st.composite
def profiles(draw: st.DrawFn) -> StageProfile:
    """Three variants on a coarse grid of figures, so that one often betters another in all."""
    variants = []
    for name in NAMES:
        accuracy = draw(st.sampled_from((0.5, 0.6, 0.7)))
        base_s, slope_s = (
            draw(st.sampled_from((0.01, 0.02, 0.03))),
            draw(st.sampled_from((0.005, 0.01, 0.02))),
        )
        rates = draw(st.none() | st.sampled_from((10.0, 20.0, 40.0)))
        odd = draw(st.lists(st.sampled_from((0.8, 1.0, 1.0, 1.3)), min_size=6, max_size=6))
        points = tuple(
            ProfilePoint(cores, batch, odd.pop() * (base_s + slope_s * batch) / cores, throughput_rps=rates)
            for cores in (1.0, 2.0)
            for batch in BATCHES
        )
        variants.append(VariantProfile(name, accuracy, points))
    return StageProfile("shop", "detect", tuple(variants), "none", TODAY, "made up")


def pipeline(*names: str) -> Pipeline:
    stage = Stage("detect", tuple(Variant(name) for name in names))
    bounds = Bounds(cores=12.0, max_replicas=4)
    return Pipeline("shop", (stage,), Sla(0.6), {"default": Objective()}, bounds=bounds)


@STEADY
@given(profiles())
def test_one_that_is_not_dominated_is_left_and_none_dominates_back(profile: StageProfile) -> None:
    pairs = list(dominated(profile, NAMES))
    assert len(pairs) < len(NAMES)
    assert not {(other, name) for name, other in pairs} & set(pairs)


@STEADY
@given(profiles(), st.sampled_from((2.0, 15.0, 45.0)), st.sampled_from(("tail", "paper")))
def test_a_plan_without_them_is_as_good(profile: StageProfile, rate_rps: float, compat: str) -> None:
    worse = {name for name, _ in dominated(profile, NAMES)}
    kept = tuple(name for name in NAMES if name not in worse)
    known = {"detect": profile}
    plans = [
        plan_pipeline(pipeline(*names), known, rate_rps, solver="exact", compat=Compat(compat))
        for names in (NAMES, kept)
    ]
    assert plans[0].termination == plans[1].termination
    assert plans[0].objective == plans[1].objective


@STEADY
@given(profiles(), st.floats(0.001, 0.1))
def test_latencies_that_only_grow_with_the_batch_and_fall_with_cores_are_not_said_to_do_else(
    profile: StageProfile, step: float
) -> None:
    sound = replace(
        profile,
        variants=tuple(
            replace(
                variant,
                points=tuple(
                    replace(it, latency_s=(step + 0.01 * it.batch_size) / it.cores) for it in variant.points
                ),
            )
            for variant in profile.variants
        ),
    )
    assert not {each.kind for each in lint_profile(sound)} & {
        Oddity.FALLS_WITH_BATCH,
        Oddity.RISES_WITH_CORES,
        Oddity.POOR_FIT,
    }


@STEADY
@given(profiles(), st.sets(st.sampled_from((*NAMES, "d")), min_size=1), st.integers(0, 400))
def test_each_finding_says_of_what_it_is_and_what_mends_it(
    profile: StageProfile, names: set[str], days: int
) -> None:
    stages = pipeline(*sorted(names)).stages
    known = {"detect": replace(profile, measured_on=date.fromordinal(TODAY.toordinal() - days))}
    found = findings("shop", stages, 0.6, known, TODAY)
    keys = [(each.kind, each.variant) for each in found]
    assert len(set(keys)) == len(keys)
    for each in found:
        assert each.remedy and each.topic
        assert each.variant is None or each.variant in {*NAMES, "d"}
    kinds = {each.kind.value for each in found}
    assert ("old" in kinds) == (days > 90)
    assert ("not_measured" in kinds) == ("d" in names)
    assert ("not_in_pipeline" in kinds) == bool(set(NAMES) - names)
