"""Conducts an experiment: cells in processes of this machine, and their tables on disk.

This process stores each outcome as it arrives, so the same command continues after an interruption.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ipa.adapters.processes import end_with_parent
from ipa.experiment.cells import CellOutcome, CellStore, ExperimentCell, Finished, code_version
from ipa.experiment.runners import SIMULATE, Experiment, runner_of
from ipa.experiment.simulated_page import differences
from ipa.model.errors import IpaError
from ipa.simulate.run import QUANTILES

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
    "world": Column(_TEXT, "", "world of the simulation, such as as-profiled or slow:1.5"),
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
        **{
            f"latency_{name}_s": Column(_REAL, "s", "latency of answers, the quantile of its name")
            for name in QUANTILES
        },
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
) -> None:
    """Write runs.parquet, and ticks.parquet and differences.parquet unless they would be empty.

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
    for name, table in ((RUNS, rows), (TICKS, ticks), (DIFFERENCES, differences)):
        (folder / name).unlink(missing_ok=True)
        if table:
            _write(table, SCHEMA[name], folder / name)


def _write(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Column], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields, arrays = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        # 4 and 4.5 in one column are both numbers; JSON does not tell 4.0 from 4.
        is_real = any(isinstance(value, float) for value in values)
        array = pa.array(values, pa.float64() if is_real else None)
        column = schema.get(name)
        about = {"unit": column.unit, "description": column.meaning} if column else {}
        fields.append(pa.field(name, array.type, metadata=about))
        arrays.append(array)
    part = path.with_suffix(".part")
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), part, compression="zstd")
    part.replace(path)


MANIFEST, TIMINGS, CELLS = "experiment.json", "timings.json", "cells"

Say = Callable[[str], None]
Watch = Callable[[int], AbstractContextManager[Say]]
Indexed = tuple[int, CellOutcome]


class Interrupted(Exception):  # noqa: N818 # a person said stop
    """The experiment was stopped by Ctrl-C or SIGTERM; `finished` of its `cells` are on disk."""

    def __init__(self, finished: int, cells: int) -> None:
        super().__init__(
            f"stopped: {finished} of {cells} cells are kept; the same command goes on from there"
        )


@dataclass(frozen=True, slots=True)
class Results:
    """The outcome of every cell of an experiment, and notes on what was left out."""

    experiment: Experiment
    finished: Sequence[Finished]
    notes: Sequence[str]


def conduct(
    experiment: Experiment,
    out: Path,
    workers: int,
    *,
    is_fresh: bool = False,
    watch: Watch = lambda missing: nullcontext(lambda title: None),
    say: Say = lambda words: None,
) -> Results:
    """Compute the missing cells of the experiment, and write its tables into the folder of its name in `out`.

    Outcomes are kept in `out`/cells by their digest; `is_fresh` computes all of them again. `watch` and `say`
    are those of `compute`. Errors: those of `compute` and of the runner.
    """
    cells, notes = runner_of(experiment.runner).cells(experiment)
    # Fail before computing anything if the folder cannot be created.
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    store = CellStore(out / CELLS, code_version())
    if is_fresh:
        for cell in cells:
            store.drop(cell)
    finished = compute(
        cells, store, workers, watch=watch, say=lambda words: say(f"{experiment.name}: {words}")
    )
    results = Results(experiment, finished, notes)
    folder = out / experiment.name
    digests = [cell.digest(code_version()) for cell in cells]
    write_tables(finished, digests, differences_of(results), folder)
    timings = [{**each.labels, **each.outcome.timings} for each in finished if each.outcome.timings]
    if timings:
        (folder / TIMINGS).write_text(json.dumps(timings, indent=1) + "\n", encoding="utf-8")
    manifest = {"experiment": experiment, "notes": notes, "version": code_version()}
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=1, ensure_ascii=False, default=_as_json) + "\n", encoding="utf-8"
    )
    return results


def _as_json(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return dict(value) if isinstance(value, Mapping) else str(value)


def differences_of(results: Results) -> list[dict[str, Any]]:
    """The rows of differences.parquet; none for experiments that compare no policies."""
    experiment = results.experiment
    return differences(experiment, results.finished) if experiment.runner == SIMULATE else []


def compute(
    cells: Sequence[ExperimentCell],
    store: CellStore,
    workers: int,
    *,
    watch: Watch = lambda missing: nullcontext(lambda title: None),
    say: Say = lambda words: None,
) -> list[Finished]:
    """Every cell with its outcome, in the order given. Equal inputs are computed once, kept ones not at all.

    `watch` is called with the number of cells to compute; its context receives the title of each finished
    one. `say` receives their number too, and what a first Ctrl-C or SIGTERM does: it finishes the cells under
    way, a second one ends them. Errors: Interrupted, those of a cell. Finished outcomes are in the store in
    any case, except those with failed ticks.
    """
    outcomes = [store.load(cell) for cell in cells]
    first: dict[Path, int] = {}
    equal_to = [first.setdefault(store.path(cell), at) for at, cell in enumerate(cells)]
    missing = [at for at in first.values() if outcomes[at] is None]
    # The long ones first, so that the last minute keeps all workers busy.
    missing.sort(key=lambda at: -cells[at].weight)
    if missing:
        say(f"{len(missing)} cells to compute")
        with _stopping(say) as stop, watch(len(missing)) as step:
            try:
                for at, outcome in _computed(cells, missing, workers, stop):
                    # A failure may be this machine's, such as a missing file: another run computes it again.
                    if not outcome.row.get("failed_ticks"):
                        store.keep(cells[at], outcome)
                    outcomes[at] = outcome
                    step(cells[at].title)
            except KeyboardInterrupt:
                stop.set()
            except IpaError:
                raise
            except Exception:
                # Raise the workers' own error unless a signal ended them.
                if not stop.is_set():
                    raise
            left = sum(outcomes[at] is None for at in equal_to)
            if left and stop.is_set():
                raise Interrupted(len(cells) - left, len(cells))
    return [
        Finished(cell.labels, each)
        for cell, at in zip(cells, equal_to, strict=True)
        if (each := outcomes[at]) is not None
    ]


@contextmanager
def _stopping(say: Say) -> Iterator[threading.Event]:
    """The event that the first SIGINT or SIGTERM sets; a second one raises KeyboardInterrupt."""
    stop = threading.Event()

    def heed(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("finishing the cells under way; once more ends them")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.signal(each, heed) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _computed(
    cells: Sequence[ExperimentCell], wanted: Sequence[int], workers: int, stop: threading.Event
) -> Iterator[Indexed]:
    """The outcomes as they arrive."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    def tasks() -> Iterator[Any]:
        for at in wanted:
            if stop.is_set():
                return
            yield joblib.delayed(_one)(at, cells[at])

    # Workers leave the terminal's Ctrl-C to this process, and end with it.
    with joblib.parallel_config(
        backend="loky", inner_max_num_threads=1, initializer=partial(_begin, os.getpid())
    ):
        try:
            # As many at a time as there are workers: an interrupt need not take back a long list.
            yield from joblib.Parallel(
                workers, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1
            )(tasks())
        finally:
            if workers > 1:
                get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _one(at: int, cell: ExperimentCell) -> Indexed:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return at, runner_of(cell.runner).work(cell.payload, cell.series)


def _begin(parent: int) -> None:
    """Set up a worker process: it ignores Ctrl-C, and ends if its parent is killed, even while it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)
