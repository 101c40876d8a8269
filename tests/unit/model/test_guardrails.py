"""Guardrails: their file, and what their rules say of figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ipa.cli.main import run
from ipa.files.document import read_document
from ipa.files.guardrails import (
    GuardrailFigures,
    GuardrailRule,
    Measure,
    Threshold,
    guardrails_in,
    is_notable,
    measured,
)
from ipa.model.errors import InputError

BEFORE = GuardrailFigures(1000, 10, 10.0, 14.0, 0.5, 0.2, 0.8, 4, 0.4)
AFTER = GuardrailFigures(1000, 30, 12.0, 20.0, 0.45, 0.3, 1.0, 5, 0.48)
HEAD = "apiVersion: ipa/v1\nkind: Guardrails\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "guardrails.yaml"
    file.write_text(HEAD + text)
    return file


def test_a_file_says_rules_threshold_price_and_load(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "fail_if: slo_ratio < 0.99\n"
        "pipelines: {video: {fail_if: [cores_mean >= 40, latency_p99_s>1.5]}}\n"
        "threshold: {pas: 0.01}\n"
        "usd_per_core_hour: 0.04\n"
        "workload: fluctuating\n",
    )
    found = guardrails_in(read_document(file))
    assert found.fail_if == (GuardrailRule(Measure.SLO_RATIO, "<", 0.99, line=3),)
    assert [str(rule) for rule in found.rules("video")] == [
        "slo_ratio < 0.99",
        "cores_mean >= 40",
        "latency_p99_s > 1.5",
    ]
    assert found.rules("other") == found.fail_if
    assert found.threshold == Threshold(pas=0.01)
    assert (found.usd_per_core_hour, found.workload, found.trace) == (0.04, "fluctuating", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fail_if: slo_rato < 1", "3:10: there is no measure 'slo_rato'; did you mean 'slo_ratio'?"),
        ("fail_if: slo_ratio = 1", '3:10: "slo_ratio = 1" is no rule; write a measure'),
        ("fail_if: slo_ratio < much", "3:10: 'much' is no number"),
        ("fail_if: slo_ratio < nan", "3:10: 'nan' is no number"),
        ("fail_if: []", "fail_if is empty; expected a rule"),
        ("fail_when: slo_ratio < 1", "3:1: unknown key 'fail_when'; did you mean 'fail_if'?"),
        ("threshold: {pass: 1}", "3:13: unknown key 'pass'; did you mean 'pas'?"),
        ("threshold: {pas: -1}", "pas is -1; it must be at least 0"),
        ("usd_per_core_hour: 0", "it must be greater than 0"),
        ("workload: burst", "did you mean 'bursty'?"),
        ("{trace: a, workload: bursty}", "not YAML"),
        ("trace: a\nworkload: bursty", "4:1: there is a trace already"),
        ("pipelines: {video: {}}", "video lacks the key 'fail_if'"),
        ("pipelines: {video: 3}", "video is 3; expected a mapping"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        guardrails_in(read_document(written(tmp_path, text)))
    assert said in str(caught.value)


def test_they_are_validated_and_their_schema_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "fail_if: [slo_ratio < 0.99, cores_mean > 40]\n")
    assert run(["validate", str(file)]) == 0
    assert capsys.readouterr().out == f"OK {file}: 2 rules\n"
    assert run(["schema", "guardrails"]) == 0
    assert '"title": "Guardrails"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure.SLO_RATIO, 0.97),
        (Measure.CORES_MEAN, 12.0),
        (Measure.CORES_PEAK, 20.0),
        (Measure.PAS_MEAN, 0.45),
        (Measure.LATENCY_P99_S, 1.0),
        (Measure.USD_PER_HOUR, 0.48),
        (Measure.COST_INCREASE_RATIO, 0.2),
        (Measure.CORES_INCREASE, 2.0),
        (Measure.ACCURACY_DROP, 0.05),
        (Measure.SLO_DROP, 0.02),
        (Measure.LATENCY_INCREASE_RATIO, 0.25),
    ],
)
def test_measures(measure: Measure, expected: float) -> None:
    assert measured(measure, BEFORE, AFTER) == pytest.approx(expected)
    compared = measure.value.endswith(("increase_ratio", "increase", "drop"))
    assert (measured(measure, None, AFTER) is None) == compared


def test_costs_are_compared_in_money_where_there_are_prices() -> None:
    cheap, dear = replace(AFTER, usd_per_hour=0.4), replace(BEFORE, usd_per_hour=0.8)
    assert measured(Measure.COST_INCREASE_RATIO, BEFORE, dear) == pytest.approx(1.0)
    assert measured(Measure.COST_INCREASE_RATIO, BEFORE, cheap) == pytest.approx(0.0)
    # As many cores, and an accelerator more.
    assert is_notable(Threshold(), BEFORE, dear)


def test_what_cannot_be_measured_breaks_no_rule() -> None:
    assert not GuardrailRule(Measure.LATENCY_P99_S, ">", 0.0).fails(None)
    assert GuardrailRule(Measure.LATENCY_P99_S, ">", 0.0).fails(0.1)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (BEFORE, False),
        (replace(BEFORE, cores_mean=10.19), False),
        (replace(BEFORE, cores_mean=9.7), True),
        (replace(BEFORE, pas_mean=0.497), True),
        (replace(BEFORE, late=13), True),
        (replace(BEFORE, latency_p99_s=0.9), True),
        (replace(BEFORE, latency_p99_s=None), True),
        (replace(BEFORE, cores_peak=99.0, changes=50), False),
    ],
)
def test_the_threshold_looks_both_ways(after: GuardrailFigures, expected: bool) -> None:
    assert is_notable(Threshold(), BEFORE, after) is expected
