"""The published figures of the authors' systems, read from a folder that is not part of ipa."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

# The authors' series for the revised paper, and how often and how far ahead its controller looked.
SERIES = "18"
TICK_S = 10
HORIZON_S = 20
# Our policy -> the system in the authors' logs. Of two static over-provisions theirs is the larger one.
SYSTEMS = {"ipa": "ipa", "fa2-low": "fa2-low", "fa2-high": "fa2-high", "rim": "rim-high"}
# A run was labelled with its hardware instead of its system.
RELABELLED = {"": "fa2-high"}
# A run whose mean rate is further from a workload's than this is not taken for it.
NEAR = 0.1


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """Means over a run's decisions; PAS as a fraction."""

    cores: float
    pas: float


def data_folder() -> Path:
    """The folder of the published data, which need not be there: IPA_SHARED_DATA."""
    return Path(os.environ.get("IPA_SHARED_DATA", "../shared/data"))


def read_published(folder: Path) -> dict[tuple[str, str, str], PublishedFigures]:
    """The published runs by (pipeline, workload, policy); empty where the data is not there.

    Which workload a run had is told by the mean rate it planned for: labels in the logs are not reliable.
    """
    files = [folder / name for name in ("ipa_published.json", "ipa_workloads.json")]
    if not all(path.is_file() for path in files):
        return {}
    published, workloads = (json.loads(path.read_text("utf-8")) for path in files)
    patterns: Mapping[str, Sequence[float]] = workloads["patterns"]
    best: dict[tuple[str, str, str], tuple[float, PublishedFigures]] = {}
    for row in published["rows"]:
        policy = _policy(row["system"])
        if row["series"] != SERIES or policy is None:
            continue
        workload, distance = _nearest(row, patterns)
        key = (row["pipeline"], workload, policy)
        if distance <= NEAR and distance < best.get(key, (NEAR * 2, None))[0]:
            best[key] = (distance, PublishedFigures(row["cores_mean"], row["pas_mean_pct"] / 100))
    return {key: run for key, (_, run) in best.items()}


def _policy(system: str) -> str | None:
    name = RELABELLED.get(system, system)
    return next((policy for policy, theirs in SYSTEMS.items() if theirs == name), None)


def _nearest(row: Mapping[str, Any], patterns: Mapping[str, Sequence[float]]) -> tuple[str, float]:
    margin = row["settings"]["predictor_margin"]
    rate = row["predicted_mean_rps"]
    off = {name: abs(fmean(peak_rates(pattern, margin)) / rate - 1) for name, pattern in patterns.items()}
    workload = min(off, key=lambda name: off[name])
    return workload, off[workload]


def peak_rates(pattern: Sequence[float], margin_pct: float) -> tuple[float, ...]:
    """The rate to plan for at each tick: the largest of the next 20 seconds, and the margin on it.

    It is what the authors' forecaster is trained to say, here said without error.
    """
    return tuple(
        max(pattern[start : start + HORIZON_S]) * (1 + margin_pct / 100)
        for start in range(0, len(pattern), TICK_S)
    )
