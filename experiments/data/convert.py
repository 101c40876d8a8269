"""Converts the authors' files into those that experiments read; equal input gives equal bytes."""

from __future__ import annotations

import csv
import gzip
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ipa.model.errors import InputError

DAY_S = 86_400
# Days 1 to 14 train, 15 to 19 test, as in the papers.
DAYS = 19
# What their workloads divide the trace by, and the seconds of it that each consists of (their run files).
DAMPING = 8
SLICES: Mapping[str, Sequence[tuple[int, int]]] = {
    "bursty": [(1301160, 1302360)],
    "steady_low": [(1299600, 1300800)],
    "steady_high": [(1768800, 1769400), (1768800, 1769400)],
    "fluctuating": [(1301400, 1302000), (1308600, 1309200)],
}
SECONDS = max(last for slices in SLICES.values() for _, last in slices)
# The load of InfAdapter's experiment (auto_tuner/experiments/workload.py): 21 minutes of the 16th day.
EXPERIMENT = (15 * DAY_S + 82 * 60, 15 * DAY_S + 103 * 60)
# Of auto_tuner/starter.py and the paper: top-1 accuracy, seconds to load, and memory of each ResNet.
RESNETS = {
    "resnet18": (0.69758, 6.44, "1.25G"),
    "resnet34": (0.73314, 6.79, "1.5G"),
    "resnet50": (0.7613, 6.82, "1.75G"),
    "resnet101": (0.77374, 7.77, "2.25G"),
    "resnet152": (0.78312, 8.52, "2.5G"),
}
# Of the same, and β as in the paper.
PARAMETERS = {
    "MAX_CPU": 20,
    "min_cpu_per_variant": 2,
    "ALPHA_code_is_paper_beta": 0.05,
    "BETA_code_is_paper_gamma": 0.001,
    "LATENCY_SLO_MS": 750,
    "CAPACITY_COEF": 0.8,
    "beta_values_of_the_paper": [0.0125, 0.05, 0.2],
}
# The authors fit capacities to these.
FITTED_CORES = (1, 2, 4, 8, 16)
COLUMNS = ("sla_ms", "arch", "cores", "capacity_rps", "p99_ms", "saturation_rps")


def read_trace(archive: Path) -> list[int]:
    """The requests of every second in the archive. InputError if it holds something else."""
    try:
        with tarfile.open(archive) as files:
            member = files.extractfile("workload.txt")
            assert member is not None
            rates = [int(word) for word in member.read().split()]
    except (tarfile.TarError, EOFError, KeyError, ValueError, AssertionError) as error:
        raise InputError(f"{archive} is no archive of a workload.txt with whole numbers: {error}") from error
    if len(rates) < SECONDS:
        raise InputError(f"{archive} has {len(rates)} seconds; the workloads are within {SECONDS}")
    return rates


def days_of(rates: Sequence[int]) -> bytes:
    """The first days of the trace, one number a line, compressed."""
    lines = "".join(f"{rate}\n" for rate in rates[: DAYS * DAY_S])
    return gzip.compress(lines.encode(), mtime=0)


def workloads_of(rates: Sequence[int]) -> dict[str, Any]:
    """The four workloads of twenty minutes: the trace divided by eight and rounded down."""
    return {
        "source": "Twitter trace of the IPA and InfAdapter papers, int(count/8)",
        "units": "requests per second, one entry per second",
        "damping_factor": DAMPING,
        "slices": SLICES,
        "patterns": {
            name: [rate // DAMPING for first, last in slices for rate in rates[first:last]]
            for name, slices in SLICES.items()
        },
    }


def infadapter_of(rates: Sequence[int], capacities: Path, version: str) -> dict[str, Any]:
    """InfAdapter's task: capacities, lines through them, variants, parameters, load."""
    rows = capacity_rows(capacities)
    by_sla: dict[str, dict[str, dict[str, float]]] = {}
    for sla_ms in dict.fromkeys(row[0] for row in rows):
        by_sla[f"{sla_ms:g}"] = {
            name: line_of([row for row in rows if row[:2] == [sla_ms, int(name.removeprefix("resnet"))]])
            for name in RESNETS
        }
    return {
        "source": version,
        "variants": {
            name: {"accuracy_top1": accuracy, "load_time_s": load_s, "memory_request": memory}
            for name, (accuracy, load_s, memory) in RESNETS.items()
        },
        "parameters": PARAMETERS,
        "capacity_regression_used": by_sla,
        "capacity_profile_columns": COLUMNS,
        "capacity_profile": rows,
        "traces": {"experiment_slice": {"per_second": rates[slice(*EXPERIMENT)]}},
    }


def capacity_rows(path: Path) -> list[list[float | None]]:
    """The rows of the capacities, by SLA, network and cores, with the columns COLUMNS."""
    rows: list[list[float | None]] = []
    with path.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream), 2):
            try:
                whole = [int(row[name]) for name in ("SLA", "ARCH", "CPU")]
                p99_ms = float(row["p99_latency"]) if row["p99_latency"] else None
                rows.append([*whole, float(row["capacity"]), p99_ms, float(row["saturation_tp"])])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path}:{number}: not a row of capacities: {error}") from error
    return sorted(rows, key=lambda row: row[:3])


def line_of(rows: Sequence[Sequence[Any]]) -> dict[str, float]:
    """The line through the capacities at FITTED_CORES by least squares, and its R² on all of them.

    `used_intercept` is what the released code takes: the whole part, at most 0.
    """
    fitted = [(row[2], row[3]) for row in rows if row[2] in FITTED_CORES]
    cores, rates = fmean(x for x, _ in fitted), fmean(y for _, y in fitted)
    slope = sum((x - cores) * (y - rates) for x, y in fitted) / sum((x - cores) ** 2 for x, _ in fitted)
    intercept = rates - slope * cores
    mean = fmean(row[3] for row in rows)
    missed = sum((row[3] - slope * row[2] - intercept) ** 2 for row in rows)
    return {
        "slope": round(slope, 4),
        "intercept": round(intercept, 4),
        "r2_on_all_20": round(1 - missed / sum((row[3] - mean) ** 2 for row in rows), 4),
        "used_intercept": min(0, int(intercept)),
    }


def as_json(values: Mapping[str, Any]) -> bytes:
    """The values as a JSON file."""
    return (json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
