"""A plan differs from what runs exactly where carrying it out would write something."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipa.cli.difference import difference
from ipa.files import load_pipeline, load_profiles
from ipa.files.plans import plan_in
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.target import SELDON
from ipa.targets.seldon.variants import at_cluster
from tests.amounts import many

ROOT = Path(__file__).resolve().parents[2]
RATES = (2.0, 8.0, 20.0)


@cache
def video() -> Pipeline:
    return at_cluster(load_pipeline(ROOT / "pipelines" / "video" / "pipeline.yaml"))


@cache
def planned(rate_rps: float) -> tuple[StageConfig, ...]:
    profiles = load_profiles(ROOT / "profiles", "video")
    return solve(planning_problem(video(), profiles, rate_rps), "exact").configs


@st.composite
def ran(draw: st.DrawFn) -> tuple[StageConfig, ...]:
    """The plan for some rate, with one field another or none."""
    configs = list(planned(draw(st.sampled_from(RATES))))
    at = draw(st.integers(0, len(configs) - 1))
    stage = video().stage(configs[at].stage)
    change = draw(
        st.one_of(
            st.just({}),
            st.builds(lambda count: {"replicas": count}, st.integers(1, 12)),
            st.builds(lambda size: {"batch_size": size}, st.sampled_from((1, 2, 4, 8))),
            st.builds(lambda cores: {"cores": cores}, st.sampled_from((0.5, 1.0, 1.0004, 2.0))),
            st.builds(lambda it: {"variant": it.name}, st.sampled_from(stage.variants)),
        )
    )
    configs[at] = replace(configs[at], **change)
    return tuple(configs)


# A manifest may be written by hand.
@settings(max_examples=many(20), deadline=None)
@given(running=ran(), rate_rps=st.sampled_from(RATES))
@example(running=planned(RATES[0]), rate_rps=RATES[0])
@example(running=planned(RATES[0]), rate_rps=RATES[2])
def test_a_plan_differs_iff_the_patch_is_not_empty(running: tuple[StageConfig, ...], rate_rps: float) -> None:
    text = yaml.safe_dump(render(video(), running), sort_keys=False)
    manifest, wanted = SELDON.manifest(video(), text, "video.yaml"), planned(rate_rps)
    live = {
        "revision": "1",
        "stages": [{"config": asdict(config)} for config in manifest.configs()],
        "cost_cores": None,
        "pas": None,
    }
    plan = plan_in({"stages": list(map(asdict, wanted))}, "the plan")
    preview = difference({"pipeline": "video", "live": live}, plan)
    assert preview.changed == (manifest.changed(wanted) != text)
