"""The frontiers of the comparison with base allocation."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from experiments.published.compare import frontier, planned
from ipa.files import load_pipeline, load_profiles
from ipa.model.pipeline import Objective
from ipa.profiling.points import Allocation

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("allocation", Allocation)
def test_each_plan_of_a_frontier_is_dearer_and_more_accurate_than_the_one_before(
    allocation: Allocation,
) -> None:
    # At this rate plans of equal cores differ in accuracy by so little that the planner takes them as equal.
    objective = Objective(alpha=2, beta=1, threshold_rps=4, max_batch_size=8, max_replicas=100, sla_s=4.5982)
    pipeline = load_pipeline(ROOT / "pipelines/video/pipeline.yaml")
    ask = partial(planned, pipeline, load_profiles(ROOT / "profiles", "video"))
    plans = [(plan.cost_cores or 0.0, plan.pas or 0.0) for plan in frontier(ask, 7.0, objective, allocation)]
    assert len(plans) > 3
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(plans))
