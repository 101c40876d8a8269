"""A review as one comment in Markdown, the same bytes for the same inputs."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.model.guardrails import GuardrailRule, measured
from ipa.model.plan import Plan
from ipa.model.resources import CORES, heading_of, total
from ipa.report.blocks import as_text, rows_of
from ipa.report.review.result import (
    NOTHING,
    SAME_CORES,
    Review,
    Reviewed,
    ReviewFrontier,
    ReviewSide,
    accuracy,
    cells,
    cents,
    changed,
    cores,
    headline,
    remark,
    seconds,
    verdict,
)

# Lets a platform's job find its earlier comment, to replace it.
MARKER = "<!-- ipa ci -->"
# GitHub's limit is 65 536 characters; the rest is in -o json.
LONGEST = 60_000
# Rows of a list of changes.
MOST_CHANGES = 16
DIGITS = 12
# If there are more rows, these are spread over all; the JSON output has every one.
MOST_ROWS = 12


def comment(review: Review) -> str:
    """The comment; empty if there is nothing to report."""
    if review.is_silent:
        return ""
    if review.problems:
        return "\n".join((MARKER, f"### IPA: {verdict(review)}", "", *_problems(review))) + "\n"
    lines = [MARKER, f"### IPA: {headline(review)}   {verdict(review)}"]
    if review.pipelines:
        lines += ["", *_table(review)]
    rest = [each.pipeline for each in review.pipelines if each not in review.told]
    if rest:
        lines += ["", f"Below the threshold: {', '.join(rest)}."]
    lines += ["", _load(review)]
    for each in review.told:
        more = ["", *_details(review, each)]
        if len("\n".join(lines + more)) > LONGEST:
            lines += ["", "The rest is in the JSON output: the comment has reached its maximum length."]
            break
        lines += more
    return "\n".join(lines) + "\n"


def _problems(review: Review) -> list[str]:
    rows = [
        (f"`{_plain(each.path)}:{each.line}:{each.column}`", as_text(each.message))
        for each in review.problems
    ]
    return rows_of(("where", "what is wrong"), rows)


def _table(review: Review) -> list[str]:
    """One row a pipeline."""
    figures = [cells(review, each) for each in review.told]
    heads = ("pipeline", *figures[0], "note")
    rows = [
        (each.pipeline, *shown.values(), as_text(remark(each)))
        for each, shown in zip(review.told, figures, strict=True)
    ]
    return rows_of(heads, rows)


def _load(review: Review) -> str:
    used = review.inputs
    seeds = "1 seed" if used.seeds == 1 else f"{used.seeds} seeds"
    return (
        f"Simulated on {as_text(used.load)}: {used.duration_s / 60:g} min, {used.mean_rps:.1f} rps on the "
        f"mean, {used.peak_rps:g} at most; {seeds}, policy {used.policy}; both sides get the same requests."
    )


def _details(review: Review, reviewed: Reviewed) -> list[str]:
    parts = [
        _guardrails(reviewed),
        _plans(reviewed),
        frontier_lines(reviewed),
        _changes(reviewed),
        _inputs(review, reviewed),
    ]
    body = [line for part in parts if part for line in (*part, "")]
    what = "guardrails, plans, frontier, decisions over the trace, inputs"
    summary = f"<summary>{reviewed.pipeline}: {what}</summary>"
    return ["<details>", summary, "", *body, "</details>"]


def _guardrails(reviewed: Reviewed) -> list[str]:
    after = reviewed.figures[1]
    if not reviewed.rules or after is None:
        return []
    rows = [_rule(reviewed, rule) for rule in reviewed.rules]
    return rows_of(("fails if", "measured", ""), rows)


def _rule(reviewed: Reviewed, rule: GuardrailRule) -> tuple[str, str, str]:
    before, after = reviewed.figures
    assert after is not None
    value = measured(rule.measure, before, after)
    is_broken = any(finding.rule == rule for finding in reviewed.findings)
    return str(rule), NOTHING if value is None else f"{value:.4g}", "❌" if is_broken else "✅"


def _plans(reviewed: Reviewed) -> list[str]:
    """The plans at the recorded rates, on both sides."""
    sides = [side for side in (reviewed.before, reviewed.after) if side is not None]
    plans = [at.plan for side in sides for at in side.plans]
    beside = [name for name in total(plan.resources for plan in plans).amounts if name != CORES]
    has_price = any(plan.cost_usd_per_hour is not None for plan in plans)
    rows = []
    for index, at in enumerate(sides[-1].plans if sides else ()):
        before = reviewed.before.plans[index].plan if reviewed.before else None
        after = reviewed.after.plans[index].plan if reviewed.after else None
        rows.append(
            (
                f"{at.label}: {at.rate_rps:.4g}",
                _configs(before),
                "as before" if _same(before, after) else _configs(after),
                changed(_known(before, "cost_cores"), _known(after, "cost_cores"), cores),
                *(changed(_amount(before, name), _amount(after, name), cores) for name in beside),
                *_price(before, after, has_price=has_price),
                changed(_known(before, "pas"), _known(after, "pas"), accuracy),
                changed(_known(before, "latency_s"), _known(after, "latency_s"), seconds),
            )
        )
    held = ("cores", *map(heading_of, beside), *(("USD/h",) if has_price else ()))
    heads = ("recorded rate, rps", "plan before", "plan after", *held, "PAS", "latency s")
    return rows_of(heads, rows) if rows else []


def _same(before: Plan | None, after: Plan | None) -> bool:
    return (
        before is not None and after is not None and bool(after.configs) and before.configs == after.configs
    )


def _configs(plan: Plan | None) -> str:
    if plan is None:
        return NOTHING
    return "<br>".join(map(str, plan.configs)) or f"none: {plan.termination.value.replace('_', ' ')}"


def _known(plan: Plan | None, name: str) -> float | None:
    return None if plan is None else getattr(plan, name)


def _amount(plan: Plan | None, name: str) -> float | None:
    return plan.resources.amount(name) if plan and plan.stages else None


def _price(before: Plan | None, after: Plan | None, *, has_price: bool) -> list[str]:
    """The cell of the price, if there is a column for it."""
    sides = _known(before, "cost_usd_per_hour"), _known(after, "cost_usd_per_hour")
    return [changed(*sides, cents)] if has_price else []


def _changes(reviewed: Reviewed) -> list[str]:
    """The loop's decisions over the trace, both sides in the order of time."""
    decided: dict[float, list[str]] = {}
    for place, side in enumerate((reviewed.before, reviewed.after)):
        for each in side.changes if side else ():
            row = decided.setdefault(each.at_s, ["", ""])
            row[place] = f"{each.reason}: {each.configs}"
    if not decided:
        return []
    rows = [
        (f"{at_s:.0f}", before, "the same" if before == after else after)
        for at_s, (before, after) in sorted(decided.items())
    ]
    lines = rows_of(("at s", "decided before", "decided after"), rows[:MOST_CHANGES])
    left = len(rows) - MOST_CHANGES
    return [*lines, "", f"{left} later ones are in the JSON output."] if left > 0 else lines


def _inputs(review: Review, reviewed: Reviewed) -> list[str]:
    """The hashes of all inputs."""
    used = review.inputs
    rows = [
        (f"`{_plain(file.path)}`", file.before[:DIGITS] or NOTHING, file.after[:DIGITS] or NOTHING)
        for file in reviewed.files
    ]
    both = [(used.load, used.load_sha256), (review.guardrails.path, used.guardrails_sha256)]
    rows += [(as_text(name), sha[:DIGITS], sha[:DIGITS]) for name, sha in both if sha]
    lines = rows_of(("input", "sha256 before", "after"), rows)
    return [*lines, "", f"ipa {used.version}; before is {as_text(used.base)} at {used.commit[:DIGITS]}."]


def _plain(path: str) -> str:
    """A path inside a code span."""
    return "".join("?" if each in "`|\n\r" else each for each in path)


def frontier_lines(reviewed: Reviewed) -> list[str]:
    """The table: the highest accuracy within each cost; a row for each plan of either side."""
    sides = [reviewed.before, reviewed.after]
    known = [side.frontier for side in sides if side is not None and side.frontier is not None]
    if not known:
        return []
    at = f"{known[-1].rate_rps:.4g} rps ({known[-1].label})"
    unknown = [each.why for each in known if each.why]
    if unknown:
        return [f"The frontier of accuracy and cost at {at} is unknown: {unknown[0]}."]
    before, after = (None if side is None else side.frontier for side in sides)
    # In money only if both sides have prices.
    in_money = all(spot.cost_usd_per_hour is not None for each in known for spot in each.spots)
    costs = _costs(known, in_money=in_money)
    if not costs:
        return [f"Nothing is feasible at {at}, at any cost within the limits."]
    chosen = [_chosen(side, in_money=in_money) for side in sides]
    shown = _spread(costs, [cost for cost in chosen if cost is not None])
    heads = (f"{'USD/h' if in_money else 'cores'}, at {at}", "most accurate (PAS)", "chosen")
    rows = [
        (f"{cost:.4g}", _pas(before, after, cost, in_money=in_money), _marks(chosen, cost)) for cost in shown
    ]
    left = len(costs) - len(shown)
    lines = rows_of(heads, rows)
    return [*lines, "", f"{left} more are in the JSON output."] if left > 0 else lines


def _costs(known: Sequence[ReviewFrontier], *, in_money: bool) -> list[float]:
    """The costs at which either side has another plan, rising; those that differ by rounding are one."""
    costs: list[float] = []
    for cost in sorted(spot.cost(in_money=in_money) for each in known for spot in each.spots):
        if not costs or cost - costs[-1] > SAME_CORES:
            costs.append(cost)
    return costs


def _chosen(side: ReviewSide | None, *, in_money: bool) -> float | None:
    plan = None if side is None else side.chosen()
    if plan is None:
        return None
    return plan.cost_usd_per_hour if in_money else plan.cost_cores


def _spread(costs: Sequence[float], kept: Sequence[float]) -> list[float]:
    """Some of them over the whole range, with the ends and those nearest to the ones to keep."""
    if len(costs) <= MOST_ROWS:
        return list(costs)
    wanted = {0, len(costs) - 1} | {_nearest(costs, cost) for cost in kept}
    room = MOST_ROWS - len(wanted)
    wanted |= {round(at * (len(costs) - 1) / (room + 1)) for at in range(1, room + 1)}
    return [costs[at] for at in sorted(wanted)]


def _nearest(costs: Sequence[float], cost: float) -> int:
    return min(range(len(costs)), key=lambda at: abs(costs[at] - cost))


def _pas(before: ReviewFrontier | None, after: ReviewFrontier | None, cost: float, *, in_money: bool) -> str:
    less, more = (
        None if each is None else each.pas_within(cost, in_money=in_money) for each in (before, after)
    )
    if before is not None and after is not None and (less is None) != (more is None):
        return (
            f"{NOTHING if less is None else accuracy(less)} → {NOTHING if more is None else accuracy(more)}"
        )
    return changed(less, more, accuracy)


def _marks(chosen: Sequence[float | None], cost: float) -> str:
    names = [
        name
        for name, at in zip(("before", "after"), chosen, strict=True)
        if at is not None and abs(at - cost) <= SAME_CORES
    ]
    return " and ".join(names)
