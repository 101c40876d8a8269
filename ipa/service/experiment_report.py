"""The data of an experiment's report, thinned so that many can be kept: the same cells as `ipa compare`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ipa.control.canonical import canonical_json, digest
from ipa.experiment.cells import CellOutcome, Finished, code_version
from ipa.experiment.experiment import Experiment
from ipa.experiment.simulated import by_interval, outcome_of
from ipa.experiment.simulated_grid import grid_of, representative
from ipa.experiment.simulated_page import blocks, differences
from ipa.model.errors import NotFoundError
from ipa.report.blocks import Block, FigureBlock, Heading, Table, TableCell, as_markdown, as_page
from ipa.report.stats import REASONS, over_seeds, span
from ipa.simulate.result import SimResult

# More points than a plot has pixels are of no use.
MOST_TICKS = 800
# Points of a curve; a bucket has at least a second.
MOST_BUCKETS = 120
# The parts of a specification that the report lists as asked for; the others are inputs.
_ASKED = ("objective", "spacing", "capacity_cores", "target")
_INPUTS = ("pipeline", "profiles", "rates_rps", "guards", "forecast")


@dataclass(frozen=True, slots=True)
class Curves:
    """A run over time, in buckets that begin at `at_s`; None where nothing was sent, or nothing answered.

    `rate_rps` is the load that was sent, `latency_s` the SLA's percentile of the latency, and
    `in_time_ratio` the share of the requests that were answered within the SLA. `cores` and `pas` are those
    of the last tick.
    """

    at_s: tuple[float, ...]
    rate_rps: tuple[float, ...]
    latency_s: tuple[float | None, ...]
    in_time_ratio: tuple[float | None, ...]
    cores: tuple[float | None, ...]
    pas: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PolicyCurves:
    """The curves of one policy."""

    policy: str
    curves: Curves


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """The runs of an experiment and their origin; `inputs` are digests by name.

    Only runs of the representative `seed` have ticks, and the curves are of it.
    """

    experiment: Experiment
    asked: Mapping[str, str]
    inputs: Mapping[str, str]
    version: str
    seed: int
    finished: tuple[Finished, ...]
    curves: tuple[PolicyCurves, ...]

    @property
    def sla_s(self) -> float:
        """The SLA of its pipeline."""
        return float(self.finished[0].labels["sla_s"])


_REPORT = TypeAdapter(ExperimentReport)


def run_of(
    spec: Mapping[str, Any], policy: str, result: SimResult, percentile: float
) -> tuple[Finished, Curves]:
    """A run of that specification (`experiments.specification`), latencies at that percentile (0 to 100)."""
    labels = {
        "pipeline": result.pipeline,
        "workload": spec["load"],
        "sla": "own",
        "sla_s": result.sla_s,
        "forecaster": spec["forecast"]["name"],
        "policy": policy,
        "seed": result.seed,
    }
    return Finished(labels, outcome_of(result, percentile, MOST_TICKS)), _curves_of(result, percentile)


def _curves_of(result: SimResult, percentile: float) -> Curves:
    count = max(1, min(MOST_BUCKETS, int(result.duration_s)))
    starts = np.linspace(0.0, result.duration_s, count, endpoint=False)
    width_s = result.duration_s / count
    seen = by_interval(result, starts[1:].tolist(), percentile)
    ticks = np.searchsorted([tick.at_s for tick in result.ticks], starts + width_s) - 1
    last = [result.ticks[at] if at >= 0 else None for at in ticks]
    return Curves(
        at_s=tuple(round(float(at), 3) for at in starts),
        rate_rps=tuple(round(sent / width_s, 4) for sent in seen["sent"]),
        latency_s=tuple(seen["request_latency_s"]),
        in_time_ratio=tuple(seen["attained_ratio"]),
        cores=tuple(None if tick is None else tick.cores for tick in last),
        pas=tuple(None if tick is None else tick.pas for tick in last),
    )


def report_of(spec: Mapping[str, Any], runs: Sequence[tuple[Finished, Curves]]) -> ExperimentReport:
    """The report of all runs of that specification; the same gives the same."""
    finished = [each for each, _ in runs]
    policies = tuple(dict.fromkeys(str(each.labels["policy"]) for each in finished))
    seeds = tuple(range(spec["seed"], spec["seed"] + spec["repeats"]))
    rates, labels = spec["rates_rps"], finished[0].labels
    experiment = Experiment(
        name="experiment",
        title=f"{', '.join(policies)} on {labels['pipeline']} under {labels['workload']}",
        runner="simulate",
        path=Path(),
        pipelines_dir=Path(),
        profiles_dir=Path(),
        question=(
            f"Simulated for {len(rates)} s at {np.mean(rates):.3g} rps, {np.max(rates):.3g} at the most, "
            f"within an SLA of {labels['sla_s']:g} s, with {len(seeds)} seed{'s' if len(seeds) > 1 else ''} "
            f"({span(seeds[0], len(seeds))})."
        ),
        seeds=seeds,
        policies=policies,
        reference=policies[0] if len(policies) > 1 else None,
    )
    _, seed = representative(grid_of(experiment, finished, {}))
    asked = {name: str(spec[name]) for name in _ASKED if spec[name] is not None}
    if spec["accelerators"] is not None:
        asked["accelerators"] = ", ".join(f"{kind}={count}" for kind, count in spec["accelerators"].items())
    return ExperimentReport(
        experiment,
        {**asked, "forecaster": str(labels["forecaster"])},
        {name: digest(canonical_json(spec[name])) for name in _INPUTS},
        code_version(),
        seed,
        tuple(_without_ticks(each) if each.labels["seed"] != seed else each for each in finished),
        tuple(
            PolicyCurves(str(each.labels["policy"]), curves)
            for each, curves in runs
            if each.labels["seed"] == seed
        ),
    )


def _without_ticks(each: Finished) -> Finished:
    return Finished(each.labels, CellOutcome(each.outcome.row, decisions=each.outcome.decisions))


def results_of(report: ExperimentReport) -> dict[str, dict[str, Any]]:
    """The figures of `ipa simulate -o json` by policy; of several seeds means, with their `intervals`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in report.finished:
        summary = {**each.outcome.row, REASONS: dict(each.outcome.decisions)}
        found.setdefault(str(each.labels["policy"]), []).append(summary)
    return {policy: each[0] if len(each) == 1 else over_seeds(each) for policy, each in found.items()}


def differences_by_name(report: ExperimentReport) -> dict[str, dict[str, dict[str, float | None]]]:
    """By policy its figures minus those of the first, seed by seed, each as {"value", "half_width"}.

    With several seeds `half_width` is half of the 95 % interval of the mean difference. A figure that either
    lacks is left out.
    """
    grid = grid_of(report.experiment, report.finished, {})
    names = report.finished[0].outcome.row
    return {
        policy: {
            name: {"value": mean.value, "half_width": mean.half_width}
            for name in names
            if (mean := grid.against(grid.cases[0], policy, name, relative=False)) is not None
        }
        for policy in grid.policies
        if policy != grid.reference
    }


def html_of(report: ExperimentReport) -> str:
    """The report as one self-contained page. The same report gives the same bytes."""
    experiment = report.experiment
    return as_page(experiment.title, experiment.question, list(_blocks(report)))


def markdown_of(report: ExperimentReport) -> str:
    """The same without figures."""
    shown = [each for each in _blocks(report) if not isinstance(each, FigureBlock)]
    return as_markdown(report.experiment.title, report.experiment.question, shown, "")[0]


def json_of(report: ExperimentReport) -> str:
    """The report for programs: tables whose columns are those of `ipa compare`, and its origin."""
    values = {
        "title": report.experiment.title,
        "asked": report.asked,
        "inputs": report.inputs,
        "version": report.version,
        "runs": [{**each.row, REASONS: each.outcome.decisions} for each in report.finished],
        "ticks": {
            str(each.labels["policy"]): each.outcome.ticks for each in report.finished if each.outcome.ticks
        },
        "differences": differences(report.experiment, report.finished),
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _blocks(report: ExperimentReport) -> Iterator[Block]:
    yield from blocks(report.experiment, report.finished)
    yield Heading("How it was made")
    for caption, values in (
        ("What was asked.", report.asked),
        ("Digests of the inputs (SHA-256).", {**report.inputs, "version of ipa": report.version}),
    ):
        rows = [[TableCell(name), TableCell(value, kind="text")] for name, value in values.items()]
        yield Table(caption, ["", "value"], [rows], texts=2)


def plain_report(report: ExperimentReport) -> Any:
    """The report as plain JSON values, as the process of an experiment sends it."""
    return _REPORT.dump_python(report, mode="json")


def unpacked(kept: bytes) -> ExperimentReport:
    """The report that `job_queue.packed` holds; NotFoundError for one that an earlier version kept."""
    try:
        return _REPORT.validate_json(zlib.decompress(kept))
    except ValidationError as error:
        raise NotFoundError(
            "its report was kept by an earlier version", hint="Start the experiment again."
        ) from error
