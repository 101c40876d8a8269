"""Writes the cores saved into docs/reference/measured.md, and every cell into runs/published."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from experiments.measured import PAGE, put
from experiments.published.compare import compare, to_json
from experiments.published.data import missing_files, read_cells
from experiments.published.page import details, measured, summary
from ipa.files import load_pipeline, load_profiles

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Compare every cell; 1 where the data is not there."""
    parser = argparse.ArgumentParser(prog="python -m experiments.published", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("IPA_SHARED_DATA", "../shared/data"))
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--out", type=Path, default=Path("runs/published/cells.json"))
    arguments = parser.parse_args()
    missing = missing_files(arguments.data)
    if missing:
        where = f"{arguments.data} (IPA_SHARED_DATA, --data)"
        print(f"the published data is needed: {', '.join(missing)} not in {where}", file=sys.stderr)
        return 1
    comparisons = []
    for cell in read_cells(arguments.data):
        pipeline = load_pipeline(ROOT / "pipelines" / cell.pipeline / "pipeline.yaml")
        comparisons.append(compare(cell, pipeline, load_profiles(ROOT / "profiles", cell.pipeline)))
        print(f"{cell.pipeline} {cell.workload}", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = json.dumps([to_json(each) for each in comparisons], indent=1, ensure_ascii=False)
    arguments.out.write_text(rows + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(details(comparisons), encoding="utf-8")
    put("python -m experiments.published", measured(comparisons), arguments.page)
    print(summary(comparisons))
    return 0


if __name__ == "__main__":
    sys.exit(main())
