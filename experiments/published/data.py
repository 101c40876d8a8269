"""The published cells: a pipeline under a workload, with the settings of its run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ipa.model.pipeline import AccuracyRule, Objective

# The authors' series for the revised paper, and how often and how far ahead its controller looked.
SERIES = "18"
TICK_S = 10
HORIZON_S = 20
PIPELINES = ("video", "audio-qa", "audio-sent", "sum-qa", "nlp")
WORKLOADS = ("bursty", "steady_low", "steady_high", "fluctuating")
FILES = ("ipa_published.json", "ipa_profiles.json", "ipa_workloads.json")
# Half a unit of the last published digit of a PAS in percent.
HALF_DIGIT = 0.5e-5
# (ranks?, their combination), as named in the authors' run files.
RULES = {
    (True, "sum"): AccuracyRule.RANK_SUM,
    (True, "multiply"): AccuracyRule.RANK_PRODUCT,
    (False, "sum"): AccuracyRule.SUM,
    (False, "multiply"): AccuracyRule.PRODUCT,
}


@dataclass(frozen=True, slots=True)
class Published:
    """The figures in the log of a run: means over its decisions; `label` is the workload's name in it."""

    label: str
    cores: float
    pas: float
    rate_rps: float


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """One run: the rates its controller had to plan for, a tick each, and its settings.

    `margin_pct` is in the rates already. `published` is None where the run's result is not in the data.
    """

    pipeline: str
    workload: str
    rates_rps: tuple[float, ...]
    margin_pct: float
    objective: Objective
    published: Published | None


def missing_files(folder: Path) -> list[str]:
    """Which of the files are not in the folder."""
    return [name for name in FILES if not (folder / name).is_file()]


def read_cells(folder: Path) -> list[PublishedCell]:
    """The 20 cells; those without a published run have the settings of their pipeline's series."""
    published, profiles, workloads = (json.loads((folder / name).read_text("utf-8")) for name in FILES)
    patterns: Mapping[str, Sequence[float]] = workloads["patterns"]
    cells = []
    for pipeline in PIPELINES:
        series = profiles["settings"][f"{pipeline}-ms{SERIES}"]
        runs = runs_of(published["rows"], pipeline, patterns)
        for workload in WORKLOADS:
            row = runs.get(workload)
            settings = row["settings"] if row else series
            cells.append(
                PublishedCell(
                    pipeline,
                    workload,
                    peak_rates(patterns[workload], settings["predictor_margin"]),
                    settings["predictor_margin"],
                    objective_of(settings, row["sla_s"] if row else series["sla_solver_s"]),
                    result_of(row) if row else None,
                )
            )
    return cells


def result_of(row: Mapping[str, Any]) -> Published:
    """The result of a run, PAS as a fraction."""
    return Published(row["workload"], row["cores_mean"], row["pas_mean_pct"] / 100, row["predicted_mean_rps"])


def runs_of(
    rows: Sequence[Mapping[str, Any]], pipeline: str, patterns: Mapping[str, Sequence[float]]
) -> dict[str, Mapping[str, Any]]:
    """The pipeline's runs of IPA by workload, told by the mean of the rate that was planned for.

    Not by their label: two runs of nlp are labelled bursty, and one of them had the rates of fluctuating.
    """
    by_workload: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if (row["series"], row["pipeline"], row["system"]) != (SERIES, pipeline, "ipa"):
            continue
        margin = row["settings"]["predictor_margin"]
        means = {name: fmean(peak_rates(pattern, margin)) for name, pattern in patterns.items()}
        workload = min(means, key=lambda name: abs(means[name] - row["predicted_mean_rps"]))
        if workload in by_workload:
            raise ValueError(f"two runs of {pipeline} have the rates of {workload}")
        by_workload[workload] = row
    return by_workload


def objective_of(settings: Mapping[str, Any], sla_s: float | None) -> Objective:
    """A run's weights, margins and limits as an objective."""
    return Objective(
        name="published",
        alpha=settings["alpha"],
        beta=settings["beta"],
        delta=settings["gamma"],
        accuracy_rule=RULES[settings["normalize_accuracy"], settings["accuracy_method"]],
        rank_floor=settings.get("lowest_model_accuracy"),
        latency_margin_ratio=settings["latency_margin"] / 100,
        throughput_margin_ratio=settings["throughput_margin"] / 100,
        threshold_rps=settings["threshold"],
        max_batch_size=settings["batching_cap"],
        max_replicas=settings["scaling_cap"],
        sla_s=sla_s,
    )


def peak_rates(pattern: Sequence[float], margin_pct: float) -> tuple[float, ...]:
    """The rate to plan for at each tick: the largest of the next 20 seconds, and the margin on it.

    It is what the authors' forecaster is trained to say, here said without error.
    """
    return tuple(
        max(pattern[start : start + HORIZON_S]) * (1 + margin_pct / 100)
        for start in range(0, len(pattern), TICK_S)
    )
