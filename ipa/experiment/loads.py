"""The loads of an experiment as rates by the second, and the latency of the fastest plan."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipa.experiment.runners import PipelineArm, WorkloadArm
from ipa.files import load_profiles
from ipa.files.pipelines import find_pipeline
from ipa.files.traces import read_rates
from ipa.model.errors import InputError
from ipa.model.forms import DURATION
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.planning import planning_problem


def data_folder() -> Path:
    """The folder of the published data, which may be missing: IPA_SHARED_DATA, else `make data`'s."""
    beside = Path("../shared/data")
    return Path(os.environ.get("IPA_SHARED_DATA", beside if beside.is_dir() else "data"))


def rates_of(arm: WorkloadArm, data: Path) -> list[float] | None:
    """The rates of an arm that has a file, by the second and scaled; None if published data is missing.

    InputError if the place `at` in a published file holds no numbers.
    """
    path = data / (arm.shared or "")
    if arm.trace is None and not path.is_file():
        return None
    if arm.trace is not None or arm.at is None:
        return [rate * arm.scale for rate in read_rates(arm.trace or path)]
    rates: Any = json.loads(path.read_text("utf-8"))
    for key in arm.at.strip("/").split("/"):
        rates = rates.get(key) if isinstance(rates, dict) else None
    if not isinstance(rates, list):
        raise InputError(f"{path} has no list of rates at {arm.at}")
    return [float(rate) * arm.scale for rate in rates]


def pipeline_of(
    arm: PipelineArm, pipelines_dir: Path, profiles_dir: Path
) -> tuple[Pipeline, dict[str, StageProfile]]:
    """The arm's pipeline and profiles by stage, with the values that the arm replaces.

    Errors: InputError, NotFoundError.
    """
    pipeline = find_pipeline(arm.pipeline, pipelines_dir)
    profiles = load_profiles(profiles_dir, pipeline.name)
    given = {name: getattr(arm, name) for name in ("accuracy_floor", "cores", "transition_cores")}
    bounds = replace(pipeline.bounds, **{name: value for name, value in given.items() if value is not None})
    objective = arm.objective or pipeline.default_objective
    return replace(pipeline, bounds=bounds, default_objective=objective), profiles


def with_sla(pipeline: Pipeline, sla_s: float) -> Pipeline:
    """The pipeline with that SLA, whatever its objective says."""
    name = pipeline.default_objective
    objectives = {**pipeline.objectives, name: replace(pipeline.objectives[name], sla_s=sla_s)}
    return replace(
        pipeline,
        sla=replace(pipeline.sla, latency_s=sla_s),
        objectives=MappingProxyType(objectives),
    )


# An SLA as it is written.
SLA_PATTERN = r"(own|[0-9]+(\.[0-9]+)?x|[0-9]+(\.[0-9]+)? ?(ms|s|min))"
SLA_WORDS = (
    "own (that of the pipeline), a multiple of the fastest plan's latency such as "
    '"1.5x", or a duration such as "800ms"'
)


def sla_of(text: str, pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> float:
    """The SLA of an experiment in seconds."""
    if text == "own":
        return pipeline.objective().sla_s or pipeline.sla.latency_s
    if text.endswith("x"):
        return round(float(text[:-1]) * fastest_s(pipeline, profiles), 4)
    return DURATION.parse(text)


def fastest_s(pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> float:
    """The latency of the fastest plan: the fastest variant and size of each stage, alone in its batch.

    It is the percentile of service along the longest path, without waiting.
    """
    problem = planning_problem(pipeline, profiles, 1.0)
    until: dict[str, float] = {}
    for stage in problem.stages:
        own = min((point.latency_s for point in stage.points if point.batch_size == 1), default=0.0)
        until[stage.name] = own + max((until[edge.parent] for edge in stage.after), default=0.0)
    return max(until.values())
