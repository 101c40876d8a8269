"""Conducts an experiment: from cells to tables on disk, and back from these for reports and comparisons."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ipa.experiment.cells import CellOutcome, CellStore, Finished, code_version
from ipa.experiment.engines import Engine, Say, Watch, compute
from ipa.experiment.experiment import Experiment
from ipa.experiment.provenance import Provenance, provenance
from ipa.experiment.runners import SIMULATE, runner_of
from ipa.experiment.simulated_page import differences
from ipa.experiment.tables import RUNS, TICKS, read_rows, write_tables
from ipa.files.reading import read_json
from ipa.model.errors import InputError, NotFoundError

MANIFEST, TIMINGS, CELLS = "experiment.json", "timings.json", "cells"
_EXPERIMENT = TypeAdapter(Experiment)


@dataclass(frozen=True, slots=True)
class Results:
    """The outcome of every cell of an experiment, notes on what was left out, and the origin."""

    experiment: Experiment
    finished: Sequence[Finished]
    notes: Sequence[str]
    made: Provenance


def conduct(
    experiment: Experiment,
    out: Path,
    engine: Engine,
    *,
    is_fresh: bool = False,
    watch: Watch = lambda missing: nullcontext(lambda title: None),
    say: Say = lambda words: None,
) -> Results:
    """Compute the missing cells of the experiment, and write its tables into the folder of its name in `out`.

    Outcomes are kept in `out`/cells by their digest; `is_fresh` computes all of them again. Errors: those of
    `compute` and of the runner.
    """
    runner = runner_of(experiment.runner)
    cells, notes = runner.cells(experiment)
    # A folder that cannot be made is known before anything is computed.
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    store = CellStore(out / CELLS, code_version())
    if is_fresh:
        for cell in cells:
            store.drop(cell)
    finished = compute(cells, store, engine, watch=watch, say=say)
    results = Results(experiment, finished, notes, provenance(str(engine)))
    folder = out / experiment.name
    digests = [cell.digest(code_version()) for cell in cells]
    write_tables(finished, digests, differences_of(results), folder)
    timings = [{**each.labels, **each.outcome.timings} for each in finished if each.outcome.timings]
    if timings:
        (folder / TIMINGS).write_text(json.dumps(timings, indent=1) + "\n", encoding="utf-8")
    manifest = {
        "experiment": experiment,
        "labels": list(cells[0].labels) if cells else [],
        "notes": notes,
        "made": results.made,
    }
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


def read_results(folder: Path) -> Results:
    """The results that `conduct` wrote into the folder, without times. Errors: NotFoundError, InputError."""
    if not (folder / MANIFEST).is_file():
        raise NotFoundError(
            f"there are no results in {folder}: no {MANIFEST}",
            hint="Name the folder that `ipa experiment run` or `ipa compare` wrote.",
        )
    manifest = read_json(folder / MANIFEST)
    try:
        experiment = _EXPERIMENT.validate_python(manifest["experiment"], strict=False)
        made = Provenance(**manifest["made"])
        labels, notes = manifest["labels"], manifest["notes"]
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{folder / MANIFEST} is not as `ipa experiment run` wrote it: {error}") from error
    ticks: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(folder / TICKS) if (folder / TICKS).is_file() else ():
        run = row.pop("run")
        for name, value in row.items():
            ticks[run][name].append(value)
    finished = []
    for row in read_rows(folder / RUNS):
        run = row.pop("run")
        del row["cell"]
        named = {name: row.pop(name) for name in labels}
        columns = dict(ticks.get(run, {}))
        decisions = dict(sorted(Counter(columns.get("reason", ())).items()))
        finished.append(Finished(named, CellOutcome(row, columns, decisions=decisions)))
    return Results(experiment, finished, notes, made)
