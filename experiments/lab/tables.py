"""Results as Parquet: one row a run, and one row a tick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab.units import Finished

RUNS, TICKS = "runs.parquet", "ticks.parquet"


def write_tables(finished: Sequence[Finished], folder: Path) -> list[Path]:
    """The files written: runs.parquet, and ticks.parquet where runs have ticks.

    Rows stand in the order of the runs, and the same runs give the same bytes: no time or host is in them.
    `run` numbers the runs in both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"run": at, **each.row} for at, each in enumerate(finished)]
    paths = [_write(_columns(rows), folder / RUNS)]
    ticks = [_ticks(at, each) for at, each in enumerate(finished) if each.outcome.ticks]
    if ticks:
        paths.append(_write(_stacked(ticks), folder / TICKS))
    else:
        (folder / TICKS).unlink(missing_ok=True)
    return paths


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _ticks(at: int, each: Finished) -> dict[str, list[Any]]:
    columns = {key: list(values) for key, values in each.outcome.ticks.items()}
    return {"run": [at] * len(next(iter(columns.values()))), **columns}


def _stacked(tables: Sequence[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {
        name: [value for table in tables for value in table.get(name, [None] * len(table["run"]))]
        for name in names
    }


def _write(columns: Mapping[str, list[Any]], path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _array(values) for name, values in columns.items()})
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)
    return path


def _array(values: list[Any]) -> Any:
    import pyarrow as pa

    # 4 and 4.5 in one column are both numbers; JSON does not tell 4.0 from 4.
    if any(isinstance(value, float) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array(values)
