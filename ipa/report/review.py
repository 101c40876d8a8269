"""A review of changed files: its results, and their figures as text and as a comment in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ipa.files.guardrails import (
    HOURS_A_MONTH,
    GuardrailFigures,
    GuardrailRule,
    Guardrails,
    is_notable,
    measured,
    relative,
)
from ipa.model.errors import Problem
from ipa.model.plan import Plan
from ipa.model.resources import dimension, total
from ipa.report.blocks import as_text, rows_of

# Lets a platform's job find its earlier comment, to replace it.
MARKER = "<!-- ipa ci -->"
# GitHub's limit is 65 536 characters; the rest is in -o json.
LONGEST = 60_000
NOTHING = "–"
# Cores to a tenth, whole dollars, seconds to a millisecond, a PAS to three digits.
cores, usd = "{:.1f}".format, "${:,.0f}".format
seconds = accuracy = "{:.3f}".format


@dataclass(frozen=True, slots=True)
class PlanAt:
    """The best plan at a rate of the trace, named by `label` (p50, p95, max)."""

    label: str
    rate_rps: float
    plan: Plan


@dataclass(frozen=True, slots=True)
class ReviewSide:
    """A pipeline before or after the change: its plans, and its figures over the trace.

    `figures` are None if it could not be simulated, and `why` says why.
    """

    plans: tuple[PlanAt, ...]
    figures: GuardrailFigures | None
    why: str = ""

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


MARKS = {Status.ADDED: "new", Status.REMOVED: "removed", Status.UNCHANGED: "guardrails changed"}


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


def is_above(guardrails: Guardrails, before: ReviewSide | None, after: ReviewSide | None) -> bool:
    """True if the change is above the threshold; an added or removed pipeline always is."""
    if before is None or after is None:
        return True
    if [each.label for each in before.unplanned] != [each.label for each in after.unplanned]:
        return True
    if before.figures is None or after.figures is None:
        return before.figures is not after.figures
    return is_notable(guardrails.threshold, before.figures, after.figures)


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
    before, after = ([each for each in side if each is not None] for side in zip(*pairs, strict=True))
    parts = []
    if before or after:
        less, more = (sum(each.cores_mean for each in side) for side in (before, after))
        by = grown(less, more)
        parts.append(f"{signed(more - less, cores)} cores" + (f" ({by})" if by else ""))
    prices = [[it.usd_per_hour for it in side if it.usd_per_hour is not None] for side in (before, after)]
    if any(prices):
        parts.append(f"{signed((sum(prices[1]) - sum(prices[0])) * HOURS_A_MONTH, usd)} a month")
    both = [(less, more) for less, more in pairs if less and more]
    if both:
        pas = sum(more.pas_mean - less.pas_mean for less, more in both) / len(both)
        parts.append(f"PAS {signed(pas, accuracy)}")
        met = [percent(_slo([pair[side] for pair in both])) for side in (0, 1)]
        parts.append(f"SLO {met[1]}" if met[0] == met[1] else f"SLO {met[0]} → {met[1]}")
    return f"{count}: {', '.join(parts)}" if parts else count


def _slo(figures: list[GuardrailFigures]) -> float:
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
    known = [side for each in review.pipelines for side in each.figures if side]
    before, after = reviewed.figures

    def moved(
        value: Callable[[GuardrailFigures], float | None],
        shown: Callable[[float], str],
        *,
        is_relative: bool = False,
    ) -> str:
        less, more = (None if side is None else value(side) for side in (before, after))
        return changed(less, more, shown, is_relative=is_relative)

    found = {"cores": moved(lambda it: it.cores_mean, cores, is_relative=True)}
    for name in total(side.beside_mean for side in known).amounts:
        amount = moved(lambda it, name=name: it.beside_mean.amount(name), cores, is_relative=True)  # type: ignore[misc]
        found[dimension(name).heading] = amount
    if any(side.usd_per_hour is not None for side in known):
        found["a month"] = moved(_usd_a_month, usd)
    found["PAS"] = moved(lambda it: it.pas_mean, accuracy)
    found["SLO met"] = moved(lambda it: it.slo_ratio, percent)
    found["p99 s"] = moved(lambda it: it.latency_p99_s, seconds, is_relative=True)
    return found


def _usd_a_month(figures: GuardrailFigures) -> float | None:
    return None if figures.usd_per_hour is None else figures.usd_per_hour * HOURS_A_MONTH


def comment(review: Review) -> str:
    """The comment in Markdown, the same bytes for the same inputs; empty if there is nothing to report."""
    if review.is_silent:
        return ""
    if review.problems:
        faults = [
            (f"`{_code(it.path)}:{it.line}:{it.column}`", as_text(it.message)) for it in review.problems
        ]
        table = rows_of(("where", "what is wrong"), faults)
        return "\n".join((MARKER, f"### IPA: {verdict(review)}", "", *table)) + "\n"
    lines = [MARKER, f"### IPA: {headline(review)}   {verdict(review)}"]
    if review.told:
        rows = [_row(each, cells(review, each)) for each in review.told]
        lines += ["", *rows_of(("pipeline", *cells(review, review.told[0]), "note"), rows)]
    rest = [each.pipeline for each in review.pipelines if each not in review.told]
    if rest:
        lines += ["", f"Below the threshold: {', '.join(rest)}."]
    used = review.inputs
    seeds = "1 seed" if used.seeds == 1 else f"{used.seeds} seeds"
    lines += [
        "",
        f"Simulated on {as_text(used.load)}: {used.duration_s / 60:g} min, {used.mean_rps:.1f} rps on the "
        f"mean, {used.peak_rps:g} at most; {seeds}, policy {used.policy}; both sides get the same requests. "
        f"Before is {as_text(used.base)} at {used.commit[:12]}; ipa {used.version}.",
    ]
    plans = rows_of(("pipeline", "rate, rps", "plan before", "plan after"), list(_plan_rows(review.told)))
    for row in ["", *plans] if review.told else ():
        if sum(map(len, lines)) + len(row) > LONGEST:
            lines += ["", "The rest is in the JSON output: the comment has reached its maximum length."]
            break
        lines.append(row)
    return "\n".join(lines) + "\n"


def _row(reviewed: Reviewed, figures: Mapping[str, str]) -> tuple[str, ...]:
    words = [MARKS.get(reviewed.status, ""), *(finding.words for finding in reviewed.findings), reviewed.note]
    return reviewed.pipeline, *figures.values(), as_text("; ".join(filter(None, words)))


def _plan_rows(told: Iterable[Reviewed]) -> Iterator[tuple[str, ...]]:
    """The plans of each pipeline at the recorded rates, on both sides."""
    for each in told:
        sides = each.before, each.after
        for at, planned in enumerate(next((side.plans for side in reversed(sides) if side is not None), ())):
            before, after = (None if side is None else side.plans[at].plan for side in sides)
            is_same = before is not None and after is not None and before.configs == after.configs != ()
            words = "as before" if is_same else _configs(after)
            yield each.pipeline, f"{planned.label}: {planned.rate_rps:.4g}", _configs(before), words


def _configs(plan: Plan | None) -> str:
    if plan is None:
        return NOTHING
    return "<br>".join(map(str, plan.configs)) or f"none: {plan.termination.value.replace('_', ' ')}"


def _code(path: str) -> str:
    """A path inside a code span."""
    return "".join("?" if each in "`|\n\r" else each for each in path)
