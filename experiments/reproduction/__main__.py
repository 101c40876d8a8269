"""Writes the reproduction into docs/reference/measured.md, and every run into runs/reproduction."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.data.used import used
from experiments.measured import PAGE, tell
from experiments.reproduction import beating, compare, infadapter
from experiments.reproduction.forecasts import learned
from experiments.reproduction.inloop import LoopRun, loop_run
from experiments.reproduction.page import count_rows, details, lines, measured
from experiments.reproduction.replay import Ask
from experiments.reproduction.runs import FILES, PIPELINES, TRACE, Published, missing_files, read_runs
from ipa.experiment.loads import data_folder
from ipa.files import load_pipeline, load_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile

ROOT = Path(__file__).resolve().parents[2]
ALL = ("video", "audio-qa", "audio-sent", "sum-qa", "nlp")
SEEDS = (1, 2, 3)
PARTS = ("runs", "loop", "infadapter", "planned")


def main() -> int:
    """Repeat every run; 1 where the data is not there."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reproduction", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=data_folder(), help="the published data (IPA_SHARED_DATA)"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduction"))
    parser.add_argument("--parts", default=",".join(PARTS), help="anew; the others are read from --out")
    parser.add_argument("--write", action="store_true", help="also put the tables into the page")
    arguments = parser.parse_args()
    data = arguments.data
    absent = [name for name in (TRACE, "infadapter.json") if not (data / name).is_file()]
    missing = [*missing_files(data), *absent]
    if missing:
        where = f"{data} (IPA_SHARED_DATA, --data)"
        print(f"{', '.join(missing)} not in {where}: `make data` says where it is", file=sys.stderr)
        return 1
    wanted = arguments.parts.split(",")
    unknown = [part for part in wanted if part and part not in PARTS]
    if unknown:
        parser.error(f"--parts: there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    print(used(data, [*FILES, TRACE, "infadapter.json"]))
    published = read_runs(data)
    makers: dict[str, Callable[[], Iterable[Any]]] = {
        "runs": lambda: compare.rows(replayed(published, data)),
        "loop": lambda: (asdict(each) for each in in_loop(published)),
        "infadapter": lambda: (asdict(each) for each in infadapter.outcomes(data / "infadapter.json", SEEDS)),
        "planned": lambda: (asdict(each) for each in plans(published)),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, make in makers.items():
        if part in wanted:
            write(arguments.out / f"{part}.json", make())
    stored = {part: json.loads((arguments.out / f"{part}.json").read_text("utf-8")) for part in PARTS}
    compared = compare.from_rows(stored["runs"])
    looped = [LoopRun(**row) for row in stored["loop"]]
    text = measured(
        compared,
        looped,
        [infadapter.Outcome(**row) for row in stored["infadapter"]],
        [beating.Outcome(**row) for row in stored["planned"]],
    )
    (arguments.out / "runs.md").write_text(details(compared, looped), encoding="utf-8")
    print(lines(count_rows(compared)))
    tell("python -m experiments.reproduction", text, arguments.page, write=arguments.write)
    return 0


def replayed(published: Published, data: Path) -> list[compare.Compared]:
    """Every run, planned again."""
    line = learned(data / TRACE)
    files = {name: files_of(name) for name in PIPELINES}
    comparisons: list[compare.Compared] = []
    planners: dict[str, dict[str, Ask]] = {}
    for run in published.runs:
        comparisons.append(compare.compare(run, published, files, line, planners))
        say(*run.cell, run.system)
    return comparisons


def in_loop(published: Published) -> Iterable[LoopRun]:
    """IPA's runs in the simulator."""
    for run in published.runs:
        if run.system == "ipa":
            pipeline, profiles = files_of(run.pipeline)
            yield loop_run(run, pipeline, profiles, published.patterns[run.workload])
            say("in the loop", *run.cell)


def plans(published: Published) -> Iterable[beating.Outcome]:
    """Our planner against IPA's, every pipeline and workload."""
    for name in ALL:
        pipeline, profiles = files_of(name)
        for objective in beating.OBJECTIVES:
            for workload, pattern in published.patterns.items():
                yield from beating.plan_cell(pipeline, profiles, objective, workload, pattern)
                say("planned", name, objective, workload)


def files_of(name: str) -> tuple[Pipeline, dict[str, StageProfile]]:
    """The pipeline and its profiles."""
    return load_pipeline(ROOT / "pipelines" / name / "pipeline.yaml"), load_profiles(ROOT / "profiles", name)


def write(path: Path, rows: Iterable[Any]) -> None:
    """The rows as a JSON list."""
    path.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def say(*words: str) -> None:
    """Its place, and whom it waits for."""
    print(*words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
