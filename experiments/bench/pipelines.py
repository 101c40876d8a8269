"""The five pipelines of the IPA paper, from loaded profiles to the verified plan, over a sweep of rates."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.bench.race import MESSAGES
from experiments.bench.rows import Row, median_of, row_of
from experiments.bench.worker import timed
from ipa.files import load_pipeline, load_profiles
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation

NAMES = ("video", "audio-qa", "audio-sent", "sum-qa", "nlp")
ROOT = Path(__file__).resolve().parents[2]
RATES_RPS = tuple(float(rate) for rate in range(1, 46))
DEADLINE_S = 20.0
# Formula, objective (None: the default one), cores: as released; as the paper; as planned by default.
WAYS = (
    (Compat.IPA_ARTIFACT, "paper-v3", Allocation.BASE),
    (Compat.PAPER, None, Allocation.FREE),
    (Compat.TAIL, None, Allocation.FREE),
)


def pipeline_rows(rates_rps: Sequence[float] = RATES_RPS, root: Path = ROOT) -> Iterator[Row]:
    """A row for each pipeline and formula: one solve a rate with the exact engine."""
    for name in NAMES:
        pipeline = load_pipeline(root / "pipelines" / name / "pipeline.yaml")
        profiles = load_profiles(root / "profiles", name)
        for compat, objective, allocation in WAYS:
            ask = partial(
                planning_problem,
                pipeline,
                profiles,
                objective=objective,
                compat=compat,
                allocation=allocation,
            )
            yield {**_swept(ask, rates_rps), "pipeline": name, "allocation": allocation.value}


def _swept(ask: Callable[[float], PlanningProblem], rates_rps: Sequence[float]) -> Row:
    # The first solve is not counted: it imports what fitting needs.
    first = ask(rates_rps[0])
    timed(first, "exact", DEADLINE_S)
    points_ms: list[float] = []
    whole_ms: list[float] = []
    failures: Counter[str] = Counter()
    messages: list[str] = []
    infeasible = 0
    for rate_rps in rates_rps:
        begin = time.perf_counter()
        ask(rate_rps)
        points_ms.append(1000 * (time.perf_counter() - begin))
        # As a service does it: the operating points stay, the rate is new.
        begin = time.perf_counter()
        problem = replace(first, rate_rps=rate_rps)
        asked_ms = 1000 * (time.perf_counter() - begin)
        answer, plan = timed(problem, "exact", DEADLINE_S)
        whole_ms.append(asked_ms + answer["ms"])
        infeasible += plan is not None and plan.objective is None
        if answer["failure"]:
            failures[answer["failure"]] += 1
            messages.append(f"{problem.pipeline} at {rate_rps:g} rps: {answer['message']}")
    return row_of(
        "exact",
        _size(first),
        first.objective.accuracy_rule.value,
        len(rates_rps),
        whole_ms,
        failures.total(),
        compat=first.compat.value,
        points_median_ms=median_of(points_ms),
        infeasible_share=infeasible / len(rates_rps),
        error=failures["error"],
        messages=messages[:MESSAGES],
    )


def _size(problem: PlanningProblem) -> tuple[int, int, int, int]:
    """Stages, the most variants of one, and how many batch and core sizes there are."""
    points = [point for stage in problem.stages for point in stage.points]
    variants = max(len({point.variant for point in stage.points}) for stage in problem.stages)
    batches, cores = {point.batch_size for point in points}, {point.cores for point in points}
    return len(problem.stages), variants, len(batches), len(cores)
