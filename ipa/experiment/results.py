"""Conducts an experiment: cells in processes of this machine, and their tables on disk.

This process keeps each outcome as it arrives, so the same command continues after an interruption.
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
from ipa.experiment.experiment import Experiment
from ipa.experiment.runners import SIMULATE, runner_of
from ipa.experiment.simulated_page import differences
from ipa.experiment.tables import write_tables
from ipa.model.errors import IpaError

MANIFEST, TIMINGS, CELLS = "experiment.json", "timings.json", "cells"

Say = Callable[[str], None]
Watch = Callable[[int], AbstractContextManager[Say]]
Indexed = tuple[int, CellOutcome]


class Interrupted(Exception):  # noqa: N818 # a person said stop
    """The experiment was stopped by Ctrl-C or SIGTERM; `kept` of its `cells` are on disk."""

    def __init__(self, kept: int, cells: int) -> None:
        super().__init__(f"stopped: {kept} of {cells} cells are kept; the same command goes on from there")
        self.kept, self.cells = kept, cells


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
    # A folder that cannot be made is known before anything is computed.
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    store = CellStore(out / CELLS, code_version())
    if is_fresh:
        for cell in cells:
            store.drop(cell)
    finished = compute(cells, store, workers, watch=watch, say=say)
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
    """Every cell with its outcome, in the order given. Cells that the store has are not computed again.

    `watch` is called with the number of cells to compute; its context receives the title of each finished
    one. `say` is told what a first Ctrl-C leads to. The first Ctrl-C or SIGTERM finishes the cells under way,
    a second one ends them. Errors: Interrupted, those of a cell. Outcomes are in the store in any case, but
    for those with failed ticks.
    """
    found = [store.load(cell) for cell in cells]
    missing = [at for at, outcome in enumerate(found) if outcome is None]
    # The long ones first, so that the last minute keeps all workers busy.
    missing.sort(key=lambda at: -cells[at].weight)
    if missing:
        with _stopping(say) as stop, watch(len(missing)) as step:
            try:
                for at, outcome in _computed(cells, missing, workers, stop):
                    # A failure may be this machine's, such as a missing file: another run computes it again.
                    if not outcome.row.get("failed_ticks"):
                        store.keep(cells[at], outcome)
                    found[at] = outcome
                    step(cells[at].title)
            except KeyboardInterrupt:
                stop.set()
            except IpaError:
                raise
            except Exception:
                # Its own error if a second signal ended the workers.
                if not stop.is_set():
                    raise
            left = sum(outcome is None for outcome in found)
            if left and stop.is_set():
                raise Interrupted(len(cells) - left, len(cells))
    return [
        Finished(cell.labels, outcome)
        for cell, outcome in zip(cells, found, strict=True)
        if outcome is not None
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
    """Set up a worker process: deaf to Ctrl-C, gone if its parent is killed, even while it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)
