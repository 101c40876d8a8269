"""Figures of a review in words: before → after, absolute and relative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipa.model.guardrails import HOURS_A_MONTH, GuardrailFigures, relative
from ipa.model.resources import heading_of, total
from ipa.report.review.result import Review, Reviewed, Status

NOTHING = "–"
MARKS = {Status.ADDED: "new", Status.REMOVED: "removed", Status.UNCHANGED: "guardrails changed"}


# Cores to a tenth, whole dollars, dollars to a cent, seconds to a millisecond, a PAS to three digits.
cores, usd, cents = "{:.1f}".format, "${:,.0f}".format, "{:.2f}".format
seconds = accuracy = "{:.3f}".format


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
    if len(review.findings) > broken:
        against.append("a recorded rate has no plan")
    if against:
        return f"❌ {', '.join(against)}"
    has_rules = any(each.rules for each in review.pipelines)
    return "✅ guardrails passed" if has_rules else "no guardrails"


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
