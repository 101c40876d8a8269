"""The approval of a review: its files and plans, so that a deploy can prove that it brings the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ipa.files.pipelines import FILE_NAME
from ipa.model.errors import ConflictError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_words
from ipa.model.profile import StageProfile
from ipa.report.review.result import Review, Reviewed, Status
from ipa.service.review.review import deterministic_plan
from ipa.service.simulation import SimulatedPlace


@dataclass(frozen=True, slots=True)
class ApprovedPlan:
    """The reviewed plan for a rate of the load, as `label` names it."""

    label: str
    rate_rps: float
    configs: tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class ApprovedPipeline:
    """A pipeline that a review passed.

    `files` has the sha256 of the pipeline's file and of each of its profiles, `profiles` the stages whose
    profile the change writes.
    """

    pipeline: str
    files: Mapping[str, str]
    profiles: tuple[str, ...]
    plans: tuple[ApprovedPlan, ...]


@dataclass(frozen=True, slots=True)
class Approval:
    """The pipelines that a review passed. `removed` are those whose files the change removes."""

    version: str
    commit: str
    pipelines: tuple[ApprovedPipeline, ...]
    removed: tuple[str, ...]


def approval_of(review: Review) -> Approval | None:
    """The approval of the review; None if it has a finding or a file is wrong."""
    if review.findings or review.problems:
        return None
    of = {status: [it for it in review.pipelines if it.status is status] for status in Status}
    return Approval(
        review.inputs.version,
        review.inputs.commit,
        tuple(_approved(each) for each in (*of[Status.ADDED], *of[Status.CHANGED])),
        tuple(each.pipeline for each in of[Status.REMOVED]),
    )


def check_plans(
    approved: ApprovedPipeline,
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    place: SimulatedPlace,
) -> None:
    """ConflictError if the plans for the reviewed rates are others now; it names them."""
    shaped = place.shape(pipeline, profiles)
    problems = []
    for each in approved.plans:
        now = deterministic_plan(shaped, profiles, each.rate_rps).configs
        if now != each.configs:
            words = f"{in_words(each.configs)} then, {in_words(now) or 'none'} now"
            problems.append(
                Problem(f"the plan of {pipeline.name} for {each.label}, {each.rate_rps:g} rps: {words}")
            )
    if problems:
        raise ConflictError(
            "the plans are not those that were reviewed",
            problems=problems,
            hint="Deploy with the version of ipa that reviewed the change, or review it again.",
        )


def _approved(reviewed: Reviewed) -> ApprovedPipeline:
    files = [each for each in reviewed.files if each.after]
    plans = reviewed.after.plans if reviewed.after else ()
    return ApprovedPipeline(
        reviewed.pipeline,
        {_usual(each.path): each.after for each in files},
        tuple(
            PurePosixPath(each.path).stem
            for each in files
            if each.before != each.after and not each.path.endswith(f"/{FILE_NAME}")
        ),
        tuple(ApprovedPlan(it.label, it.rate_rps, it.plan.configs) for it in plans),
    )


def _usual(path: str) -> str:
    """The path of a file below the usual names of the folders."""
    *_, pipeline, name = path.split("/")
    return f"{'pipelines' if name == FILE_NAME else 'profiles'}/{pipeline}/{name}"
