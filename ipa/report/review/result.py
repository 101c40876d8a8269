"""The results of a review of changed files, and their figures in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.errors import Problem
from ipa.model.guardrails import (
    HOURS_A_MONTH,
    GuardrailFigures,
    GuardrailRule,
    Guardrails,
    is_notable,
    measured,
    relative,
)
from ipa.model.plan import Plan
from ipa.model.resources import heading_of, total

# Sums of the same cores in another order differ by less.
SAME_CORES = 1e-9
NOTHING = "–"
# Cores to a tenth, whole dollars, dollars to a cent, seconds to a millisecond, a PAS to three digits.
cores, usd, cents = "{:.1f}".format, "${:,.0f}".format, "{:.2f}".format
seconds = accuracy = "{:.3f}".format


@dataclass(frozen=True, slots=True)
class RunChange:
    """A change that the run wrote."""

    at_s: float
    reason: str
    configs: str


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
    """A reason to refuse a change: a broken rule with the measured value, or (no rule) a missing plan.

    With a `path` it is a profile there whose figures changed without a new measurement.
    """

    rule: GuardrailRule | None
    value: float | None
    words: str
    path: str = ""


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
    # The reason why there are no guardrails, in words; empty if there are.
    guardrails_missing: str = ""
    # True if the change removes the file of guardrails.
    removes_guardrails: bool = False

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
        return not (self.told or self.problems or self.removes_guardrails)


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


MARKS = {Status.ADDED: "new", Status.REMOVED: "removed", Status.UNCHANGED: "guardrails changed"}


def percent(value: float) -> str:
    """A share in percent to a hundredth."""
    return f"{100 * value:.2f} %"


def signed(value: float, shown: Callable[[float], str]) -> str:
    """The number with its sign, a true minus; no sign if it rounds to zero."""
    text = shown(abs(value))
    if not any(digit in text for digit in "123456789"):
        return "±" + text
    return ("+" if value > 0 else "−") + text


def grown(before: float | None, after: float | None) -> str:
    """The relative growth in percent; empty if it has no meaning."""
    by = relative(before, after)
    return "" if by is None else f"{signed(by * 100, lambda value: f'{value:.0f}')} %"


def changed(
    before: float | None, after: float | None, shown: Callable[[float], str], *, is_relative: bool = False
) -> str:
    """`before → after (difference)`, or the one value that exists; also relative if `is_relative`."""
    if before is None or after is None:
        known = [value for value in (before, after) if value is not None]
        return shown(known[0]) if known else NOTHING
    if shown(before) == shown(after):
        return shown(after)
    difference = [signed(after - before, shown), grown(before, after) if is_relative else ""]
    # Differences that round to zero are left out.
    told = ", ".join(each for each in difference if each and not each.startswith("±"))
    return f"{shown(before)} → {shown(after)}" + (f" ({told})" if told else "")


def headline(review: Review) -> str:
    """The whole change in one line, without its verdict."""
    told = review.told
    if not told:
        return "no change above the threshold"
    count = "1 pipeline affected" if len(told) == 1 else f"{len(told)} pipelines affected"
    pairs = [each.figures for each in told]
    both = [(before, after) for before, after in pairs if before and after]
    parts = []
    if any(before or after for before, after in pairs):
        less = sum(before.cores_mean for before, _ in pairs if before)
        more = sum(after.cores_mean for _, after in pairs if after)
        by = grown(less, more)
        parts.append(f"{signed(more - less, cores)} cores" + (f" ({by})" if by else ""))
    parts += _money(pairs)
    if both:
        pas = sum(after.pas_mean - before.pas_mean for before, after in both) / len(both)
        parts.append(f"PAS {signed(pas, accuracy)}")
        slo = [percent(_slo([pair[side] for pair in both])) for side in (0, 1)]
        parts.append(f"SLO {slo[1]}" if slo[0] == slo[1] else f"SLO {slo[0]} → {slo[1]}")
    return f"{count}: {', '.join(parts)}" if parts else count


def _money(pairs: Sequence[tuple[GuardrailFigures | None, GuardrailFigures | None]]) -> list[str]:
    sides = [[each.usd_per_hour for pair in pairs if (each := pair[side]) is not None] for side in (0, 1)]
    known = [[value for value in side if value is not None] for side in sides]
    if not any(known):
        return []
    return [f"{signed((sum(known[1]) - sum(known[0])) * HOURS_A_MONTH, usd)} a month"]


def _slo(figures: Sequence[GuardrailFigures]) -> float:
    requests = sum(each.requests for each in figures)
    return 1.0 - sum(each.late for each in figures) / requests if requests else 1.0


def verdict(review: Review) -> str:
    """The verdict on the guardrails, with its mark."""
    if review.problems:
        return "❌ files cannot be used"
    broken = sum(finding.rule is not None for finding in review.findings)
    against = [f"{broken} guardrail{'' if broken == 1 else 's'} broken"] if broken else []
    if any(finding.path for finding in review.findings):
        against.append("a profile without a new measurement")
    if any(finding.rule is None and not finding.path for finding in review.findings):
        against.append("a recorded rate has no plan")
    if against:
        return f"❌ {', '.join(against)}"
    if review.guardrails_missing:
        return f"⚠️ {review.guardrails_missing}"
    has_rules = any(each.rules for each in review.pipelines)
    return "✅ guardrails passed" if has_rules else "⚠️ no rule"


def cells(review: Review, reviewed: Reviewed) -> dict[str, str]:
    """The figures of a pipeline by name; other resources and money only where a pipeline has them."""
    before, after = reviewed.figures

    def moved(
        name: str, shown: Callable[[float], str], *, is_relative: bool = False, times: float = 1.0
    ) -> str:
        known = [None if side is None else getattr(side, name) for side in (before, after)]
        less, more = (None if value is None else value * times for value in known)
        return changed(less, more, shown, is_relative=is_relative)

    found = {"cores": moved("cores_mean", cores, is_relative=True)}
    for name in _beside_cores(review):
        less, more = (None if side is None else side.beside_mean.amount(name) for side in (before, after))
        found[heading_of(name)] = changed(less, more, cores, is_relative=True)
    if any(side and side.usd_per_hour is not None for each in review.pipelines for side in each.figures):
        found["a month"] = moved("usd_per_hour", usd, times=HOURS_A_MONTH)
    found["PAS"] = moved("pas_mean", accuracy)
    found["SLO met"] = moved("slo_ratio", percent)
    found["p99 s"] = moved("latency_p99_s", seconds, is_relative=True)
    return found


def _beside_cores(review: Review) -> list[str]:
    """The resources other than cores that any pipeline holds, for one table of all."""
    return list(total(side.beside_mean for each in review.pipelines for side in each.figures if side).amounts)


def remark(reviewed: Reviewed) -> str:
    """Remarks on a pipeline for its row."""
    words = [MARKS.get(reviewed.status, ""), *(finding.words for finding in reviewed.findings)]
    return "; ".join(filter(None, (*words, reviewed.note)))
