"""What a review of changed files found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.errors import Problem
from ipa.model.guardrails import GuardrailFigures, GuardrailRule, Guardrails, is_notable, measured
from ipa.model.plan import Plan

# Sums of the same cores in another order differ by less.
SAME_CORES = 1e-9


@dataclass(frozen=True, slots=True)
class PlanAt:
    """The best plan at a rate of the trace: `label` says which (p50, p95, max)."""

    label: str
    rate_rps: float
    plan: Plan


@dataclass(frozen=True, slots=True)
class SimulatedChange:
    """A change that the loop made during the simulation."""

    at_s: float
    reason: str
    configs: str


@dataclass(frozen=True, slots=True)
class FrontierSpot:
    """A plan that no other betters in accuracy and cost."""

    cost_cores: float
    pas: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class ReviewFrontier:
    """What can be had within the pipeline's limits at a rate of the trace, by rising cost; empty: nothing.

    `why` says why it is not known.
    """

    label: str
    rate_rps: float
    spots: tuple[FrontierSpot, ...]
    why: str = ""

    def pas_within(self, cost_cores: float) -> float | None:
        """The most accurate that so many cores give."""
        within = [spot.pas for spot in self.spots if spot.cost_cores <= cost_cores + SAME_CORES]
        return max(within, default=None)


@dataclass(frozen=True, slots=True)
class ReviewSide:
    """A pipeline before or after: what is planned, what could be, and what came of the trace.

    `figures` are None where `why` says why nothing could be simulated. `changes` are those of the first seed.
    """

    plans: tuple[PlanAt, ...]
    figures: GuardrailFigures | None
    changes: tuple[SimulatedChange, ...] = ()
    why: str = ""
    frontier: ReviewFrontier | None = None

    def chosen(self) -> Plan | None:
        """The plan at the rate of the frontier, where there is one."""
        label = "" if self.frontier is None else self.frontier.label
        return next((each.plan for each in self.plans if each.label == label and each.plan.stages), None)

    @property
    def unplanned(self) -> tuple[PlanAt, ...]:
        """The rates that no plan carries."""
        return tuple(each for each in self.plans if not each.plan.stages)


class Status(StrEnum):
    """What became of a pipeline's files."""

    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    # Only the guardrails changed.
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class FileHash:
    """A file that went in, with the sha256 of its text before and after; empty where it was not there."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ReviewFinding:
    """Why a change may not be made: a broken rule with what was measured, or (no rule) no plan in words."""

    rule: GuardrailRule | None
    value: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One pipeline. `path` is that of its file; `note` says what was not as it should be before."""

    pipeline: str
    path: str
    status: Status
    before: ReviewSide | None
    after: ReviewSide | None
    files: tuple[FileHash, ...]
    rules: tuple[GuardrailRule, ...]
    is_notable: bool
    findings: tuple[ReviewFinding, ...]
    note: str = ""

    @property
    def figures(self) -> tuple[GuardrailFigures | None, GuardrailFigures | None]:
        """Those before and after."""
        return (self.before.figures if self.before else None, self.after.figures if self.after else None)


@dataclass(frozen=True, slots=True)
class ReviewInputs:
    """What all pipelines were reviewed with: equal inputs give equal reviews."""

    version: str
    base: str
    commit: str
    load: str
    load_sha256: str
    guardrails_sha256: str
    duration_s: int
    mean_rps: float
    peak_rps: float
    seeds: int
    policy: str


@dataclass(frozen=True, slots=True)
class Review:
    """The whole: `problems` are of files that cannot be used, and then nothing was simulated."""

    inputs: ReviewInputs
    guardrails: Guardrails
    pipelines: tuple[Reviewed, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def told(self) -> tuple[Reviewed, ...]:
        """The pipelines that are worth telling of."""
        return tuple(each for each in self.pipelines if each.is_notable or each.findings)

    @property
    def findings(self) -> tuple[ReviewFinding, ...]:
        """Those of all pipelines."""
        return tuple(finding for each in self.pipelines for finding in each.findings)

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.told or self.problems)


def findings_of(
    rules: Iterable[GuardrailRule], before: ReviewSide | None, after: ReviewSide | None
) -> tuple[ReviewFinding, ...]:
    """What is against the pipeline as it is after the change; nothing where it is gone."""
    if after is None:
        return ()
    found = [_unplanned(each, before) for each in after.unplanned]
    if after.figures is None:
        return tuple(found) or (ReviewFinding(None, None, after.why),)
    earlier = before.figures if before else None
    for rule in rules:
        value = measured(rule.measure, earlier, after.figures)
        if rule.fails(value):
            found.append(ReviewFinding(rule, value, f"{rule.measure.value} is {value:.4g}"))
    return tuple(found)


def _unplanned(at: PlanAt, before: ReviewSide | None) -> ReviewFinding:
    termination = at.plan.termination.value.replace("_", " ")
    words = f"no plan carries {at.rate_rps:g} rps, the {at.label} of the trace ({termination})"
    if before is not None and at.label in {each.label for each in before.unplanned}:
        words += ", as before"
    moves = "; ".join(at.plan.relaxations)
    return ReviewFinding(None, None, f"{words}; feasible with {moves}" if moves else words)


def notable(
    guardrails: Guardrails, status: Status, before: ReviewSide | None, after: ReviewSide | None
) -> bool:
    """Whether the change is above the threshold: one that comes or goes always is."""
    if status in (Status.ADDED, Status.REMOVED) or before is None or after is None:
        return True
    if _unplanned_labels(before) != _unplanned_labels(after):
        return True
    if before.figures is None or after.figures is None:
        return before.figures is not after.figures
    return is_notable(guardrails.threshold, before.figures, after.figures)


def _unplanned_labels(side: ReviewSide) -> Sequence[str]:
    return [each.label for each in side.unplanned]
