"""The results of a review of changed files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.errors import Problem
from ipa.model.guardrails import GuardrailFigures, GuardrailRule, Guardrails, is_notable, measured
from ipa.model.plan import Plan
from ipa.report.run import RunChange

# Sums of the same cores in another order differ by less.
SAME_CORES = 1e-9


@dataclass(frozen=True, slots=True)
class PlanAt:
    """The best plan at a rate of the trace, named by `label` (p50, p95, max)."""

    label: str
    rate_rps: float
    plan: Plan


@dataclass(frozen=True, slots=True)
class FrontierSpot:
    """A Pareto-optimal plan in accuracy and cost, in money if the pipeline has prices."""

    cost_cores: float
    pas: float
    latency_s: float
    cost_usd_per_hour: float | None = None

    def cost(self, *, in_money: bool) -> float:
        """USD an hour if it is known and asked for, else cores."""
        known = self.cost_usd_per_hour if in_money else None
        return self.cost_cores if known is None else known


@dataclass(frozen=True, slots=True)
class ReviewFrontier:
    """The frontier within the pipeline's limits at a rate of the trace, by rising cost; empty: infeasible.

    `why` is the reason if it is unknown.
    """

    label: str
    rate_rps: float
    spots: tuple[FrontierSpot, ...]
    why: str = ""

    def pas_within(self, cost: float, *, in_money: bool) -> float | None:
        """The highest accuracy within that cost."""
        within = [spot.pas for spot in self.spots if spot.cost(in_money=in_money) <= cost + SAME_CORES]
        return max(within, default=None)


@dataclass(frozen=True, slots=True)
class ReviewSide:
    """A pipeline before or after the change: its plans, its frontier, and its figures over the trace.

    `figures` are None if it could not be simulated, and `why` says why. `changes` are those of the first
    seed.
    """

    plans: tuple[PlanAt, ...]
    figures: GuardrailFigures | None
    changes: tuple[RunChange, ...] = ()
    why: str = ""
    frontier: ReviewFrontier | None = None

    def chosen(self) -> Plan | None:
        """The plan at the rate of the frontier, if there is one."""
        label = "" if self.frontier is None else self.frontier.label
        return next((each.plan for each in self.plans if each.label == label and each.plan.stages), None)

    @property
    def unplanned(self) -> tuple[PlanAt, ...]:
        """The rates without a plan."""
        return tuple(each for each in self.plans if not each.plan.stages)


class Status(StrEnum):
    """The change of a pipeline's files."""

    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    # Only the guardrails changed.
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class FileHash:
    """A file of the review, with the sha256 of its text before and after; empty if it did not exist."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ReviewFinding:
    """A reason to refuse a change: a broken rule with the measured value, or (no rule) a missing plan."""

    rule: GuardrailRule | None
    value: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One pipeline. `path` is that of its file; `note` has problems of the state before the change."""

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
        """The figures before and after."""
        return (self.before.figures if self.before else None, self.after.figures if self.after else None)


@dataclass(frozen=True, slots=True)
class ReviewInputs:
    """The inputs shared by all pipelines: equal inputs give equal reviews."""

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
    """The whole review: `problems` are of unusable files, and then nothing was simulated."""

    inputs: ReviewInputs
    guardrails: Guardrails
    pipelines: tuple[Reviewed, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def told(self) -> tuple[Reviewed, ...]:
        """The pipelines to report."""
        return tuple(each for each in self.pipelines if each.is_notable or each.findings)

    @property
    def findings(self) -> tuple[ReviewFinding, ...]:
        """The findings of all pipelines."""
        return tuple(finding for each in self.pipelines for finding in each.findings)

    @property
    def is_silent(self) -> bool:
        """True if there is nothing to report."""
        return not (self.told or self.problems)


def findings_of(
    rules: Iterable[GuardrailRule], before: ReviewSide | None, after: ReviewSide | None
) -> tuple[ReviewFinding, ...]:
    """The findings on the pipeline after the change; none if it was removed."""
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
    """True if the change is above the threshold; an added or removed pipeline always is."""
    if status in (Status.ADDED, Status.REMOVED) or before is None or after is None:
        return True
    if _unplanned_labels(before) != _unplanned_labels(after):
        return True
    if before.figures is None or after.figures is None:
        return before.figures is not after.figures
    return is_notable(guardrails.threshold, before.figures, after.figures)


def _unplanned_labels(side: ReviewSide) -> Sequence[str]:
    return [each.label for each in side.unplanned]
