"""The published runs: what each was set up with and what its log says it came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.published.data import peak_rates

PIPELINES = ("video", "audio-qa", "nlp")
SERIES = ("14", "18")
WORKLOADS = ("bursty", "steady_low", "steady_high", "fluctuating")
# RIM with many replicas is the RIM of the papers; that with one replica a stage was run on video only.
SYSTEMS = ("ipa", "fa2-low", "fa2-high", "rim-high")
MORE_SYSTEMS = ("rim-low",)
FILES = ("ipa_published.json", "ipa_workloads.json")
TRACE = "twitter_days_01_19.txt.gz"
# A name in the settings of one run that no model has; its log shows the accuracy of this one.
MISSPELT = {"sshleifer-distilbart-xsum--6": "sshleifer-distilbart-xsum-6-6"}


@dataclass(frozen=True, slots=True)
class Log:
    """The figures of a log: means over its decisions, PAS as a fraction."""

    cores: float
    pas: float
    rate_rps: float
    decisions: int
    infeasible: int


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """One system in one cell. `notes` says where its label or settings were mended, and how."""

    series: str
    pipeline: str
    workload: str
    system: str
    settings: Mapping[str, Any]
    log: Log
    notes: tuple[str, ...] = ()

    @property
    def cell(self) -> tuple[str, str, str]:
        """The cell it belongs to."""
        return (self.series, self.pipeline, self.workload)


@dataclass(frozen=True, slots=True)
class Published:
    """All runs in the order of series, pipeline, workload, system, and the rates of each workload."""

    runs: tuple[LoggedRun, ...]
    patterns: Mapping[str, Sequence[float]] = field(repr=False)


def missing_files(folder: Path) -> list[str]:
    """Which of the files are not in the folder."""
    return [name for name in FILES if not (folder / name).is_file()]


def read_runs(folder: Path) -> Published:
    """The runs of the folder's files; ValueError where one is there twice or missing."""
    published, workloads = (json.loads((folder / name).read_text("utf-8")) for name in FILES)
    patterns: Mapping[str, Sequence[float]] = workloads["patterns"]
    by_key: dict[tuple[str, str, str, str], LoggedRun] = {}
    for row in published["rows"]:
        run = run_of(row, patterns)
        key = (*run.cell, run.system)
        if key in by_key:
            raise ValueError(f"there are two runs of {key}")
        by_key[key] = run
    wanted = [
        (series, pipeline, workload, system)
        for series in SERIES
        for pipeline in PIPELINES
        for workload in WORKLOADS
        for system in (*SYSTEMS, *MORE_SYSTEMS)
    ]
    missing = [key for key in wanted if key not in by_key and key[3] in SYSTEMS]
    if missing:
        raise ValueError(f"there is no run of {missing}")
    return Published(tuple(by_key[key] for key in wanted if key in by_key), patterns)


def run_of(row: Mapping[str, Any], patterns: Mapping[str, Sequence[float]]) -> LoggedRun:
    """The run of one row, its label and names mended."""
    settings = dict(row["settings"])
    notes = []
    models = [MISSPELT.get(name, name) for name in settings["initial_active_model"]]
    if models != list(settings["initial_active_model"]):
        notes.append(f"its settings name an unknown model; taken as {models[-1]}")
    settings["initial_active_model"] = models
    settings["sla_s"], settings["drop_limit_s"] = row["sla_s"], row["drop_limit_s"]
    system = row["system"]
    if not system:
        # The label of two runs was cut off; they pin heavy variants.
        system = "fa2-high"
        notes.append("its label lacks the system; its pinned variants are the heavy ones")
    workload = workload_of(row["predicted_mean_rps"], settings["predictor_margin"], patterns)
    label = row["workload"].partition(",")[0]
    if label != workload:
        notes.append(f"labelled {label}, its rates are those of {workload}")
    log = Log(
        row["cores_mean"],
        row["pas_mean_pct"] / 100,
        row["predicted_mean_rps"],
        row["decisions"],
        row["infeasible"],
    )
    return LoggedRun(row["series"], row["pipeline"], workload, system, settings, log, tuple(notes))


def workload_of(rate_rps: float, margin_pct: float, patterns: Mapping[str, Sequence[float]]) -> str:
    """The workload whose rates to plan for come nearest on the mean, in ratio."""
    means = {name: fmean(peak_rates(pattern, margin_pct)) for name, pattern in patterns.items()}
    return min(means, key=lambda name: max(means[name] / rate_rps, rate_rps / means[name]))
