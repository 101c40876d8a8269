"""Writes profiles/<pipeline>/<stage>.yaml from the figures that the authors of IPA and InfAdapter published.

    python tools/import_profiles.py FOLDER [--out profiles]

FOLDER holds ipa_profiles.json and infadapter.json. Figures are rounded to four significant digits; a
throughput keeps more where four would change how many replicas some whole rate up to 45 rps needs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import date
from pathlib import Path
from typing import Any

from ipa.files import dump_profile
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

DIGITS = 4
RATES_RPS = range(1, 46)
# What remains of a throughput under the margins that the authors planned with.
FACTORS = (1.0, 0.5, 0.43)
# The SLA for which InfAdapter's capacities are taken, as in its experiments.
RESNET_SLA_MS = 750
GIB = 2**30


def rounded(value: float, digits: int = DIGITS) -> float:
    """The value to so many significant digits."""
    return float(f"{value:.{digits}g}")


def rounded_throughput(value_rps: float) -> float:
    """To four digits, or the fewest more that leave every replica count as it was."""
    digits = DIGITS
    while _replicas(rounded(value_rps, digits)) != _replicas(value_rps):
        digits += 1
    return rounded(value_rps, digits)


def _replicas(throughput_rps: float) -> list[int]:
    return [math.ceil(rate / (throughput_rps * factor)) for rate in RATES_RPS for factor in FACTORS]


def ipa_profiles(data: dict[str, Any]) -> list[StageProfile]:
    """The stages of IPA's five pipelines: variants in use, at the load they were chosen from."""
    profiles = []
    for key, setting in data["settings"].items():
        pipeline, series = key.rsplit("-ms", 1)
        if series != "14":
            continue
        load = setting["profiling_load"]
        stages = setting["base_allocation"]
        loads = load if isinstance(load, list) else [load] * len(stages)
        profiles += [
            _ipa_stage(data["entries"], pipeline, stage, list(stages[stage]), load_rps)
            for stage, load_rps in zip(stages, loads, strict=True)
        ]
    return profiles


def _ipa_stage(
    entries: list[dict[str, Any]], pipeline: str, stage: str, variants: list[str], load_rps: int
) -> StageProfile:
    rows = [
        row
        for row in entries
        if (row["pipeline"], row["stage"], row["load_rps"]) == (pipeline, stage, load_rps)
    ]
    return StageProfile(
        pipeline=pipeline,
        stage=stage,
        variants=tuple(_ipa_variant([row for row in rows if row["variant"] == name]) for name in variants),
        hardware="Intel Xeon Gold 6126 at 2.60 GHz; cores are the CPU request and limit of the container",
        measured_on=date(2024, 1, 1),
        method=(
            "60 s at the given load: latency is p99 and mean over the requests, throughput the maximum of "
            "the Prometheus rate, censored at the load. The logs carry no day; the year is the paper's."
        ),
        source="IPA (Ghafouri et al., JSys 2024), profiling logs published by the authors",
        load_rps=float(load_rps),
    )


def _ipa_variant(rows: list[dict[str, Any]]) -> VariantProfile:
    percent = rows[0]["accuracy"]
    # The audio stages hold minus the word error rate.
    accuracy = percent / 100 if percent > 0 else 1 + percent / 100
    points = tuple(
        ProfilePoint(
            cores=float(row["cores"]),
            batch_size=int(batch),
            latency_s=rounded(row["latency_p99"][batch]),
            latency_mean_s=rounded(row["latency_avg"][batch]),
            throughput_rps=rounded_throughput(row["throughput_max"][batch]),
        )
        for row in sorted(rows, key=lambda row: row["cores"])
        for batch in sorted(row["latency_p99"], key=int)
        if row["latency_p99"][batch] is not None  # overloaded: nothing was answered in time to be logged
    )
    return VariantProfile(rows[0]["variant"], rounded(accuracy), points)


def resnet_profile(data: dict[str, Any]) -> StageProfile:
    """InfAdapter's ResNets: the largest Poisson rate whose p99 stays below the SLA, by cores."""
    variants = []
    for name, facts in data["variants"].items():
        layers = int(name.removeprefix("resnet"))
        points = tuple(
            ProfilePoint(
                cores=float(cores),
                batch_size=1,
                latency_s=rounded(p99_ms / 1000),
                throughput_rps=rounded(capacity_rps),
            )
            for sla_ms, arch, cores, capacity_rps, p99_ms, _ in data["capacity_profile"]
            if sla_ms == RESNET_SLA_MS and arch == layers and p99_ms is not None
        )
        memory_gib = float(facts["memory_request"].removesuffix("G")) * 1e9 / GIB
        variants.append(
            VariantProfile(
                name, rounded(facts["accuracy_top1"]), points, facts["load_time_s"], rounded(memory_gib)
            )
        )
    return StageProfile(
        pipeline="resnets",
        stage="classify",
        variants=tuple(variants),
        hardware="the authors' Kubernetes cluster; TensorFlow Serving 2.8 with one thread pool of all cores",
        measured_on=date(2023, 5, 8),
        method=(
            f"throughput is the largest Poisson rate whose p99 stayed below {RESNET_SLA_MS} ms for 16 s, "
            "latency that p99 (waiting included). No day was published; this is the workshop's."
        ),
        source="InfAdapter (Salmani et al., EuroMLSys 2023), capacity profiles published by the authors",
    )


def main() -> None:
    """Write every profile and say which."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds ipa_profiles.json and infadapter.json")
    parser.add_argument("--out", type=Path, default=Path("profiles"))
    arguments = parser.parse_args()
    profiles = ipa_profiles(json.loads((arguments.folder / "ipa_profiles.json").read_text("utf-8")))
    profiles.append(resnet_profile(json.loads((arguments.folder / "infadapter.json").read_text("utf-8"))))
    for profile in profiles:
        path = arguments.out / profile.pipeline / f"{profile.stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_profile(profile), encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
