"""The data of an experiment's runs: figures, reports and curves, thinned so that many can be kept."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

import ipa
from ipa.control.canonical import canonical_json, digest
from ipa.report.run import Run, RunChange, Ticks
from ipa.report.stats import Repeats, Row, SeedFigures, means_of, paired, sorted_by_name, span
from ipa.simulate.result import SimResult

# More points than a plot has pixels are of no use.
MOST_TICKS = 800
CDF_POINTS = 200
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_RUN = TypeAdapter(Run)
# Points of a curve; a bucket has at least a second.
MOST_BUCKETS = 120
# The parts of a specification that the report lists as asked for; the others are inputs.
_ASKED = ("policy", "objective", "seed", "spacing", "capacity_cores", "target")

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
class PolicyRun:
    """The run of one policy of an experiment, over all its seeds; the curves are of the first seed."""

    policy: str
    run: Run
    curves: Curves


_RUNS = TypeAdapter(tuple[PolicyRun, ...])


def curves_of(result: SimResult, percentile: float) -> Curves:
    """The curves of a run, with the latency at that percentile (0 to 100)."""
    count = max(1, min(MOST_BUCKETS, int(result.duration_s)))
    starts = np.linspace(0.0, result.duration_s, count, endpoint=False)
    width_s = result.duration_s / count
    bucket = np.minimum((result.born_s / width_s).astype(int), count - 1)
    latencies_s = result.done_s - result.born_s
    rows: list[tuple[float, float | None, float | None]] = []
    for at in range(count):
        of = latencies_s[bucket == at]
        answered = of[~np.isnan(of)]
        latency_s = float(np.quantile(answered, percentile / 100)) if len(answered) else None
        in_time = float((answered <= result.sla_s).sum() / len(of)) if len(of) else None
        rows.append((len(of) / width_s, latency_s, in_time))
    ticks = np.searchsorted([tick.at_s for tick in result.ticks], starts + width_s) - 1
    last = [result.ticks[at] if at >= 0 else None for at in ticks]
    rates, latencies, in_time_ratios = zip(*rows, strict=True)
    return Curves(
        at_s=tuple(round(float(at), 3) for at in starts),
        rate_rps=tuple(round(rate, 4) for rate in rates),
        latency_s=latencies,
        in_time_ratio=in_time_ratios,
        cores=tuple(None if tick is None else tick.cores for tick in last),
        pas=tuple(None if tick is None else tick.pas for tick in last),
    )


def differences(run: Run, reference: Run) -> dict[str, dict[str, float | None]]:
    """The figures of a run minus those of the reference, each as {"value", "half_width"}.

    With several seeds they are compared seed by seed, and `half_width` is half of the 95 % interval of the
    mean difference. A figure that either lacks is left out.
    """
    ours, theirs = _by_seed(run), _by_seed(reference)
    found = {}
    for name in ours[0]:
        pairs = [(one.get(name), other.get(name)) for one, other in zip(ours, theirs, strict=True)]
        known = [(one, other) for one, other in pairs if one is not None and other is not None]
        mean = paired([one for one, _ in known], [other for _, other in known], relative=False)
        if mean is not None:
            found[name] = {"value": mean.value, "half_width": mean.half_width}
    return found


def _by_seed(run: Run) -> list[Row]:
    return [each.figures for each in run.repeats.seeds] if run.repeats else [run.figures]


def run_of(spec: Mapping[str, Any], result: SimResult) -> Run:
    """The run of that specification (`experiments.specification`); the same gives the same."""
    figures = result.summary()
    reasons = figures.pop("decisions_by_reason")
    latencies_s, rates = result.latencies_s, spec["rates_rps"]
    shares = np.linspace(0.0, 1.0, CDF_POINTS)
    cdf = zip(np.quantile(latencies_s, shares), shares, strict=True) if len(latencies_s) else ()
    asked = {name: str(spec[name]) for name in _ASKED if spec[name] is not None}
    if spec["accelerators"] is not None:
        asked["accelerators"] = ", ".join(f"{kind}={count}" for kind, count in spec["accelerators"].items())
    return Run(
        pipeline=result.pipeline,
        load=spec["load"],
        asked={**asked, "forecaster": spec["forecast"]["name"]},
        inputs={name: digest(canonical_json(spec[name])) for name in _INPUTS},
        version=ipa.__version__,
        duration_s=result.duration_s,
        sla_s=result.sla_s,
        mean_rps=float(np.mean(rates)),
        peak_rps=float(np.max(rates)),
        figures=figures,
        slo_ratio=1.0 - figures["violation_ratio"],
        core_hours=result.core_seconds / 3600.0,
        latency_quantiles_s={
            name: float(np.quantile(latencies_s, at)) if len(latencies_s) else None
            for name, at in QUANTILES.items()
        },
        latency_cdf=tuple((round(float(value), 6), round(float(share), 6)) for value, share in cdf),
        decisions_by_reason=reasons,
        changes=changes_of(result),
        ticks=_ticks(result),
    )


def changes_of(result: SimResult) -> tuple[RunChange, ...]:
    """The changes that the loop wrote during the run."""
    return tuple(
        RunChange(it.at_s, it.reason, it.configs) for it in result.ticks if it.reason.startswith("apply.")
    )


def seed_of(run: Run, seed: int) -> SeedFigures:
    """The figures of a run that are kept beside those of other seeds; no time series."""
    return SeedFigures(seed, run.figures, run.latency_quantiles_s, run.decisions_by_reason)


def run_over(first: Run, seeds: Sequence[SeedFigures]) -> Run:
    """The run of all these seeds, of which `first` is the run of the first: its figures are their means.

    Time series, distribution and changes stay those of the first.
    """
    figures = means_of([it.figures for it in seeds])
    latencies = means_of([it.latency_quantiles_s for it in seeds])
    reasons = means_of([it.decisions_by_reason for it in seeds], missing=0)
    words = span(seeds[0].seed, len(seeds))
    return replace(
        first,
        asked=dict(("seeds", words) if name == "seed" else (name, first.asked[name]) for name in first.asked),
        figures=figures.values,
        slo_ratio=1.0 - (figures.values["violation_ratio"] or 0.0),
        core_hours=(figures.values["cores_mean"] or 0.0) * first.duration_s / 3600.0,
        latency_quantiles_s=latencies.values,
        decisions_by_reason=sorted_by_name(reasons.values),
        repeats=Repeats(
            seeds=tuple(seeds),
            intervals=figures.half_widths,
            latency_intervals_s=latencies.half_widths,
            decision_intervals=sorted_by_name(reasons.half_widths),
        ),
    )


def result_of(run: Run) -> dict[str, Any]:
    """The figures of `ipa simulate -o json`; of several seeds their means, and `intervals` beside them."""
    figures = {**run.figures, "decisions_by_reason": dict(run.decisions_by_reason)}
    return {**figures, "intervals": dict(run.repeats.intervals)} if run.repeats else figures


def _ticks(result: SimResult) -> Ticks:
    """Every tick, or of a long run every so many."""
    kept = result.ticks[:: -(-len(result.ticks) // MOST_TICKS) or 1]
    return Ticks(**{each.name: tuple(getattr(it, each.name) for it in kept) for each in fields(Ticks)})


def told(runs: Sequence[PolicyRun]) -> Any:
    """The runs as plain JSON values, as the process of an experiment sends them."""
    return _RUNS.dump_python(tuple(runs), mode="json")


def packed(values: Any) -> bytes:
    """The values compressed: some ten kilobytes."""
    return zlib.compress(json.dumps(values).encode())


def unpacked(kept: bytes) -> tuple[PolicyRun, ...]:
    """The runs of which `packed` holds the values."""
    return _RUNS.validate_json(zlib.decompress(kept))


def as_json(run: Run) -> str:
    """The run as JSON text: the report for programs."""
    unsaid = {"repeats"} if run.repeats is None else None
    return _RUN.dump_json(run, indent=1, exclude=unsaid).decode() + "\n"
