"""Results as Parquet with a documented schema: a row for each run, for each tick, and for each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.experiment.cells import Finished

RUNS, TICKS, DIFFERENCES = "runs.parquet", "ticks.parquet", "differences.parquet"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its type, unit (empty for none) and meaning."""

    type: str
    unit: str
    meaning: str


_TEXT, _WHOLE, _REAL, _FLAG = "string", "int64", "double", "bool"
_CASE = {
    "pipeline": Column(_TEXT, "", "name of the pipeline, or of its arm in the experiment"),
    "workload": Column(_TEXT, "", "name of the load"),
    "sla": Column(_TEXT, "", "SLA as the experiment writes it: own, a multiple such as 1.5x, or a duration"),
}
SCHEMA: Mapping[str, Mapping[str, Column]] = {
    RUNS: {
        "run": Column(_WHOLE, "", "number of the run in this file; `run` of ticks.parquet"),
        "cell": Column(_TEXT, "", "SHA-256 of the run's version and inputs, the address of its outcome"),
        **_CASE,
        "sla_s": Column(_REAL, "s", "SLA"),
        "forecaster": Column(_TEXT, "", "forecaster of the load"),
        "policy": Column(_TEXT, "", "policy that decided"),
        "seed": Column(_WHOLE, "", "seed of arrivals and service times"),
        "pas_mean": Column(_REAL, "ratio", "accuracy of the running configuration (PAS), mean over time"),
        "cores_mean": Column(_REAL, "cores", "cores paid, old and new replicas of a change, mean over time"),
        "memory_gib_mean": Column(_REAL, "GiB", "memory held, mean over time; other resources likewise"),
        "violation_ratio": Column(_REAL, "ratio", "requests that were late or lost, of those sent"),
        "lost": Column(_WHOLE, "requests", "requests without an answer"),
        "latency_p50_s": Column(_REAL, "s", "median latency of the answered requests; null if none"),
        "latency_p90_s": Column(_REAL, "s", "90th percentile of the same"),
        "latency_p95_s": Column(_REAL, "s", "95th percentile of the same"),
        "latency_p99_s": Column(_REAL, "s", "99th percentile of the same"),
        "latency_p999_s": Column(_REAL, "s", "99.9th percentile of the same"),
        "latency_max_s": Column(_REAL, "s", "longest of the same"),
        "changes": Column(_WHOLE, "", "changes of the configuration that were written"),
        "requests": Column(_WHOLE, "requests", "requests sent"),
        "accuracy_mean": Column(_REAL, "ratio", "accuracy of the answers, mean over the answered requests"),
        "failed_ticks": Column(_WHOLE, "", "ticks at which policy or forecaster failed: not their figures"),
        "first_failure": Column(_TEXT, "", "the first of these and its error; null if none failed"),
        "usd_per_hour": Column(_REAL, "USD/h", "cost, if the pipeline has prices"),
    },
    TICKS: {
        "run": Column(_WHOLE, "", "number of the run in runs.parquet"),
        "at_s": Column(_REAL, "s", "time of the tick since the start of the load"),
        "reason": Column(_TEXT, "", "reason code of the decision"),
        "rate_rps": Column(_REAL, "rps", "observed rate; null if missing"),
        "point_rps": Column(_REAL, "rps", "forecast peak"),
        "upper_rps": Column(_REAL, "rps", "upper quantile of the forecast peak"),
        "latency_s": Column(_REAL, "s", "latency that the loop observed, at the SLA's percentile"),
        "cores": Column(_REAL, "cores", "cores held"),
        "pas": Column(_REAL, "ratio", "accuracy of the serving replicas"),
        "configs": Column(_TEXT, "", "running configuration"),
        "failure": Column(_TEXT, "", "error of policy or forecaster; empty if none failed"),
        "sent": Column(_WHOLE, "requests", "requests that arrive until the next tick"),
        "attained_ratio": Column(_REAL, "ratio", "of these, answered within the SLA; null if none was sent"),
        "request_latency_s": Column(
            _REAL, "s", "of these, latency at the SLA's percentile; null if none answered"
        ),
    },
    DIFFERENCES: {
        **_CASE,
        "policy": Column(_TEXT, "", "policy"),
        "reference": Column(_TEXT, "", "policy that it is compared with, under the same requests"),
        "figure": Column(_TEXT, "", "column of runs.parquet"),
        "is_relative": Column(_FLAG, "", "true: policy ÷ reference − 1; false: policy − reference"),
        "difference": Column(_REAL, "", "mean over the pairs, one for each seed"),
        "low": Column(_REAL, "", "lower end of the 95 % interval (Student's t); null for one pair"),
        "high": Column(_REAL, "", "upper end of the same"),
        "pairs": Column(_WHOLE, "", "number of pairs"),
    },
}


def write_tables(
    finished: Sequence[Finished],
    digests: Sequence[str],
    differences: Sequence[Mapping[str, Any]],
    folder: Path,
) -> list[Path]:
    """The files written: runs.parquet, and ticks.parquet and differences.parquet if there are any.

    Rows are in the order of the cells, and equal outcomes give equal bytes: no time or host is in them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"run": at, "cell": digest, **each.row}
        for at, (each, digest) in enumerate(zip(finished, digests, strict=True))
    ]
    ticks = [
        {"run": at, **dict(zip(each.outcome.ticks, values, strict=True))}
        for at, each in enumerate(finished)
        for values in zip(*each.outcome.ticks.values(), strict=True)
    ]
    found = []
    for name, table in ((RUNS, rows), (TICKS, ticks), (DIFFERENCES, list(differences))):
        (folder / name).unlink(missing_ok=True)
        if table:
            found.append(_write(table, SCHEMA[name], folder / name))
    return found


def _write(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Column], path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields, arrays = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        array = _array(values)
        column = schema.get(name)
        about = {"unit": column.unit, "description": column.meaning} if column else {}
        fields.append(pa.field(name, array.type, metadata=about))
        arrays.append(array)
    part = path.with_suffix(".part")
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), part, compression="zstd")
    part.replace(path)
    return path


def _array(values: list[Any]) -> Any:
    import pyarrow as pa

    # 4 and 4.5 in one column are both numbers; JSON does not tell 4.0 from 4.
    if any(isinstance(value, float) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array(values)
