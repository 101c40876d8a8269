"""Prints the cores saved, with --write into docs/reference/measured.md; every cell into runs/published."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.data.used import used
from experiments.measured import PAGE, tell
from experiments.published.compare import compare, to_json
from experiments.published.data import FILES, missing_files, read_cells
from experiments.published.page import details, measured, summary
from ipa.experiment.loads import data_folder
from ipa.files import load_pipeline, load_profiles

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Compare every cell; 1 where the data is not there."""
    parser = argparse.ArgumentParser(prog="python -m experiments.published", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=data_folder(), help="the published data (IPA_SHARED_DATA)"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--out", type=Path, default=Path("runs/published/cells.json"))
    parser.add_argument("--write", action="store_true", help="also put the tables into the page")
    arguments = parser.parse_args()
    missing = missing_files(arguments.data)
    if missing:
        where = f"{arguments.data} (IPA_SHARED_DATA, --data)"
        print(f"{', '.join(missing)} not in {where}: `make data` says where it is", file=sys.stderr)
        return 1
    print(used(arguments.data, FILES))
    comparisons = []
    for cell in read_cells(arguments.data):
        pipeline = load_pipeline(ROOT / "pipelines" / cell.pipeline / "pipeline.yaml")
        comparisons.append(compare(cell, pipeline, load_profiles(ROOT / "profiles", cell.pipeline)))
        print(f"{cell.pipeline} {cell.workload}", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = json.dumps([to_json(each) for each in comparisons], indent=1, ensure_ascii=False)
    arguments.out.write_text(rows + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(details(comparisons), encoding="utf-8")
    print(summary(comparisons))
    tell("python -m experiments.published", measured(comparisons), arguments.page, write=arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
