"""What plans predict beside what real processes do: 30 configurations a pipeline; runs/scorecard/table.md."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.demo.__main__ import machine
from experiments.live.__main__ import ALL_PIPELINES, CALIBRATION_S, QUICK_CALIBRATION_S, TRAINED
from experiments.live.cells import calibrated_subject
from experiments.measured import put
from experiments.scorecard.draws import COUNTS, QUICK_COUNTS, Place, draws
from experiments.scorecard.figures import Row, scores
from experiments.scorecard.local import LocalCells
from experiments.scorecard.measure import PROGRAMME, QUICK
from experiments.scorecard.on_seldon import seldon_rows
from experiments.scorecard.page import draw_figure, matrix, table
from experiments.scorecard.releases import RELEASES, record
from ipa import __version__

COMMAND = "make scorecard"
PICTURE = Path("docs/images/scorecard.png")
BELIEFS = {"profiled": "By the profiles", "believed": "By what the loop has learned some seconds later"}


def rows_of(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of a pipeline: its local cells, then those on Seldon."""
    counts = QUICK_COUNTS if options.quick else COUNTS
    programme = QUICK if options.quick else PROGRAMME
    TRAINED.get(name, lambda: None)()
    limit_s = QUICK_CALIBRATION_S if options.quick else CALIBRATION_S
    subject = calibrated_subject(name, options.out / "profiles", limit_s)
    places = [place for place, count in counts.items() for _ in range(count) if place in options.places]
    here = [place for place in places if place.is_local]
    drawn = draws(subject.pipeline, subject.profiles, subject.largest.rate_rps, len(here), options.seed)
    cells = LocalCells(subject, programme, options.out / name / "local")
    if drawn:
        with cells.started(drawn[0].configs):
            for draw, place in zip(drawn, here, strict=False):
                yield cells.row(draw, place)
    slowdowns = cells.correction.slowdowns(subject.pipeline)
    for place in (Place.SINGLE, Place.SPLIT):
        if count := places.count(place):
            folder = options.out / name / place.name.lower()
            yield from seldon_rows(subject, place, count, options.seed, programme, slowdowns, folder)


def main() -> int:
    """Run the cells, print and write tables and figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.scorecard", description=__doc__)
    parser.add_argument("--pipelines", default=",".join(ALL_PIPELINES), help="by comma")
    parser.add_argument("--places", default=",".join(place.name.lower() for place in COUNTS), help="by comma")
    parser.add_argument("--seed", type=int, default=35)
    parser.add_argument("--quick", action="store_true", help="few configurations: does it work")
    parser.add_argument(
        "--write", action="store_true", help="into measured.md, docs/images and releases.json"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/scorecard"))
    options = parser.parse_args()
    options.places = [Place[name.upper()] for name in options.places.split(",")]
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    begun_s, rows = time.monotonic(), []
    for name in options.pipelines.split(","):
        for row in rows_of(name, options):
            rows.append(row)
            print(json.dumps(row.to_json()), flush=True)
    (options.out / "rows.json").write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")
    took_min, lost = (time.monotonic() - begun_s) / 60, sum(row.lost for row in rows)
    about = (
        f"{options.pipelines}: {len(rows)} configurations in {took_min:.0f} minutes, seed {options.seed}; "
        f"{lost} requests had no answer. Off by on average, and bias."
    )

    def page(of: Callable[[Sequence[Row], str], str]) -> str:
        parts = (f"{words}:\n\n{of(rows, belief)}" for belief, words in BELIEFS.items())
        return "\n\n".join([about, *parts])

    (options.out / "table.md").write_text(f"{machine()['processor']}. {page(table)}\n")
    draw_figure(rows, "believed", options.out / "scorecard.png")
    print(page(table))
    print(options.out / "table.md")
    if options.write:
        about_run = f"{options.pipelines} {' '.join(options.places)} seed {options.seed}"
        found = record(__version__, str(machine()["processor"]), about_run, scores(rows, "believed"))
        if found:
            print("worse than the last release, so nothing is written:", *found, sep="\n  ", file=sys.stderr)
            return 1
        put(COMMAND, page(matrix))
        shutil.copy(options.out / "scorecard.png", PICTURE)
        print(RELEASES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
