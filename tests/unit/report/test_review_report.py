"""A review as Markdown, whatever is in the names and messages of others."""

from __future__ import annotations

from dataclasses import replace

from ipa.files.guardrails import GuardrailFigures, GuardrailRule, Guardrails, Measure
from ipa.model.errors import Problem
from ipa.model.resources import Resources
from ipa.report.review import (
    LONGEST,
    MARKER,
    PlanAt,
    Review,
    Reviewed,
    ReviewInputs,
    ReviewSide,
    Status,
    cells,
    comment,
    findings_of,
    headline,
    signed,
)
from tests.fakes.services import a_plan

INPUTS = ReviewInputs("0.1.0", "main", "c" * 40, "traces/day.txt", 600, 10.0, 20.0, 3, "ours")
RULE = GuardrailRule(Measure.ACCURACY_DROP, ">", 0.02, line=4)
BEFORE = GuardrailFigures(1000, 0, 10.0, 12.0, 0.5, 0.2, 0.8, 2)
AFTER = GuardrailFigures(1000, 5, 12.0, 20.0, 0.4, 0.3, 0.9, 3)


def reviewed(name: str = "video", **fields: object) -> Reviewed:
    before, after = ReviewSide((), BEFORE), ReviewSide((), AFTER)
    made = Reviewed(
        pipeline=name,
        path=f"pipelines/{name}/pipeline.yaml",
        status=Status.CHANGED,
        before=before,
        after=after,
        rules=(RULE,),
        is_notable=True,
        findings=findings_of([RULE], before, after),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def review(*pipelines: Reviewed, problems: tuple[Problem, ...] = ()) -> Review:
    return Review(INPUTS, Guardrails((RULE,), path="guardrails.yaml"), pipelines, problems)


NASTY = Problem("<img src=x> | `x` @all [a](http://b) **no**", "pipelines/a b`|\n/x.yaml", 3, 4, "/a/b")


def test_other_resources_and_prices_have_columns_where_a_pipeline_has_them() -> None:
    before = replace(BEFORE, usd_per_hour=1.0, beside_mean=Resources(0, 8.0, {"nvidia.com/gpu": 1.0}))
    after = replace(AFTER, usd_per_hour=3.0, beside_mean=Resources(0, 8.0, {"nvidia.com/gpu": 2.0}))
    one = reviewed(before=ReviewSide((), before), after=ReviewSide((), after))
    found = cells(review(one, reviewed("other")), one)
    assert list(found) == ["cores", "memory GiB", "nvidia.com/gpu", "a month", "PAS", "SLO met", "p99 s"]
    assert found["nvidia.com/gpu"] == "1.0 → 2.0 (+1.0, +100 %)"
    assert found["a month"] == "$730 → $2,190 (+$1,460)"
    assert "nvidia.com/gpu" in comment(review(one, reviewed("other")))
    assert "memory GiB" not in cells(review(reviewed()), reviewed())


def test_text_of_others_stays_text() -> None:
    text = comment(review(problems=(NASTY,)))
    [row] = [line for line in text.splitlines() if line.startswith("| `")]
    assert "<img" not in row and "@all" not in row
    assert row.replace("\\|", "").count("|") == 3, "two cells, whatever is in them"
    assert r"\[a\]" in row and r"\*\*no\*\*" in row


def test_an_untrustworthy_name_of_a_trace_or_base_stays_text() -> None:
    inputs = replace(INPUTS, load="a|b<script>.txt", base="feat/<b>|`x`")
    text = comment(replace(review(reviewed()), inputs=inputs))
    assert "<script>" not in text and "<b>" not in text


def test_a_comment_is_silent_where_nothing_is_told() -> None:
    assert comment(review(reviewed(is_notable=False, findings=()))) == ""
    assert comment(review()) == ""


def test_a_comment_names_what_is_below_the_threshold_too() -> None:
    text = comment(review(reviewed(), reviewed("other", is_notable=False, findings=())))
    assert text.startswith(f"{MARKER}\n### IPA: 1 pipeline affected: +2.0 cores (+20 %), PAS −0.100, ")
    assert "Below the threshold: other." in text


def test_a_comment_is_never_longer_than_a_platform_takes() -> None:
    plan = a_plan(5.0)
    wide = replace(plan, stages=plan.stages * 40)
    long = ReviewSide((PlanAt("p50", 5.0, wide),), AFTER)
    text = comment(
        review(*(reviewed(f"p{at}", before=replace(long, figures=BEFORE), after=long) for at in range(30)))
    )
    assert LONGEST * 0.7 < len(text) < LONGEST + 5000
    assert "is in the JSON output" in text
    assert "| p29 |" in text, "no row of figures is lost"


def test_headline_sums_cores_of_what_comes_and_goes() -> None:
    words = headline(review(reviewed(), reviewed("new", before=None), reviewed("old", after=None)))
    assert words == "3 pipelines affected: +4.0 cores (+20 %), PAS −0.100, SLO 100.00 % → 99.50 %"


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [signed(value, lambda each: f"{each:.1f}") for value in (0.04, -0.04, 0.06, -2)] == [
        "±0.0",
        "±0.0",
        "+0.1",
        "−2.0",
    ]
