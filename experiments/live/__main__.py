"""Runs the policies on pipelines and worlds; writes runs/live/table.md. Exit code 1: a goal was missed.

    python -m experiments.live [--pipelines text] [--policies ours,ipa] [--worlds quiet,busy] [--times 2]
        [--rates capacities.json]

The largest plan of a pipeline is measured in a world first, with rates that rise until less is in time. The
load is made from that capacity (experiments/live/programme.py), which capacities.json keeps: with --rates
FILE the loads are those of an earlier run, so that two machines or versions compare.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

import httpx

from experiments.demo.__main__ import machine
from experiments.live.cells import (
    BEST,
    COMPASS,
    INFAAS,
    STATIC,
    Subject,
    calibrated_subject,
    measured_capacity_rps,
    run_cell,
)
from experiments.live.figures import BUSY, CHEAPEST, OURS, QUIET, Figures, figures_of, missed
from experiments.live.programme import LEVELS, QUICK_LEVELS, programme_of
from experiments.live.table import render, row
from ipa.model.errors import IpaError, UsageError
from ipa.policies.registry import POLICIES as REGISTRY
from ipa.policies.table import PolicyInputs, make_policy
from pipelines.digits import train as digits
from pipelines.text import train as text

ALL_PIPELINES = ("digits", "ocr", "text")
# All in the quiet world, those that the goals are about beside neighbours: 25 minutes together.
POLICIES = {
    QUIET: (OURS, "ours-frugal", "ipa", "ms+", "hpa", CHEAPEST, BEST),
    BUSY: (OURS, "ipa", CHEAPEST),
}
# Those that run only if they are named.
ALL_POLICIES = (*POLICIES[QUIET], INFAAS, COMPASS)
# Loading one model trains all of the pipeline where there are none yet.
TRAINED = {
    "digits": lambda: digits.load_model("locate", "ridge"),
    "text": lambda: text.load_model("extract", "tree"),
}
# For the profiles of a pipeline that are of another machine.
CALIBRATION_S, QUICK_CALIBRATION_S = 30.0, 5.0

Cell = tuple[str, str, str]


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """(pipeline, world, policy) of what is asked for."""
    for pipeline in options.pipelines:
        for world in options.worlds:
            for policy in options.policies or POLICIES[world]:
                yield pipeline, world, policy


def refusal(subject: Subject, policy: str) -> str:
    """The reason why the policy does not run this pipeline; empty if it does."""
    if policy in STATIC:
        return ""
    try:
        make_policy(REGISTRY.admit(policy), PolicyInputs(subject.pipeline, subject.profiles))
    except UsageError as error:
        return str(error)
    return ""


def read_capacities(file: str) -> dict[tuple[str, str], float]:
    """The capacities in rps by pipeline and world that an earlier run wrote into the file.

    ArgumentTypeError names the file, and the value that is not a rate above 0.
    """
    try:
        given = json.loads(Path(file).read_text("utf-8"))
        capacities = {(name, world): rps for name, each in given.items() for world, rps in each.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise argparse.ArgumentTypeError(
            f"{file} is not a capacities.json of an earlier run: {error}"
        ) from error
    for (name, world), rps in capacities.items():
        if name not in ALL_PIPELINES or world not in POLICIES:
            known = f"{', '.join(ALL_PIPELINES)}; {', '.join(POLICIES)}"
            raise argparse.ArgumentTypeError(f"{file}: {name}, {world} is not among {known}")
        if not isinstance(rps, int | float) or not 0 < rps < inf:
            raise argparse.ArgumentTypeError(
                f"{file}: {name}, {world} is {rps!r}; give a rate above 0 in rps"
            )
    return capacities


def write_capacities(capacities: Mapping[tuple[str, str], float], file: Path) -> None:
    """Write them as `read_capacities` reads them."""
    worlds: dict[str, dict[str, float]] = {}
    for (name, world), rps in capacities.items():
        worlds.setdefault(name, {})[world] = rps
    file.write_text(json.dumps(worlds, indent=1) + "\n", "utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""

    def among(known: Sequence[str]) -> object:
        def listed(text: str) -> list[str]:
            names = text.split(",")
            wrong = [name for name in names if name not in known]
            if wrong:
                raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not among {', '.join(known)}")
            return names

        return listed

    parser = argparse.ArgumentParser(prog="python -m experiments.live", description=__doc__.splitlines()[0])
    parser.add_argument("--pipelines", type=among(ALL_PIPELINES), default=list(ALL_PIPELINES))
    parser.add_argument("--policies", type=among(ALL_POLICIES), help="in every world; else " + str(POLICIES))
    parser.add_argument("--worlds", type=among((QUIET, BUSY)), default=[QUIET, BUSY])
    parser.add_argument("--times", type=int, default=1, help="each phase of the load this many times as long")
    parser.add_argument(
        "--rates",
        type=read_capacities,
        default={},
        metavar="FILE",
        help="capacities.json of an earlier run, whose loads are sent again; those it lacks are measured",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one pipeline, one policy, few steps: does it work"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/live"))
    options = parser.parse_args(arguments)
    if options.quick:
        options.pipelines, options.worlds = options.pipelines[:1], options.worlds[:1]
        options.policies = (options.policies or [OURS])[:1]
    return options


def main() -> int:
    """Run the cells, print and write the table; 1 if a goal was missed or a cell failed."""
    options = parse()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    started = time.monotonic()
    figures: list[Figures] = []
    refused: dict[Cell, str] = {}
    failed: list[str] = []
    for name in options.pipelines:
        # The first replica would train the models while the service waits for it.
        TRAINED.get(name, lambda: None)()
    limit_s = QUICK_CALIBRATION_S if options.quick else CALIBRATION_S
    subjects = {
        name: calibrated_subject(name, options.out / "profiles", limit_s) for name in options.pipelines
    }
    capacities: dict[tuple[str, str], float] = dict(options.rates)
    for cell in cells(options):
        pipeline, world, policy = cell
        subject = subjects[pipeline]
        why = refusal(subject, policy)
        if why:
            refused[cell] = why
            continue
        folder = options.out / pipeline / world / policy
        try:
            if (pipeline, world) not in capacities:
                capacity_rps = measured_capacity_rps(subject, world, folder.parent / "capacity")
                capacities[pipeline, world] = capacity_rps
                print(
                    f"{pipeline}, {world}: the largest plan carries {capacity_rps:.4g} rps "
                    f"({subject.largest.rate_rps:.4g} planned)",
                    flush=True,
                )
            write_capacities(capacities, options.out / "capacities.json")
            programme = programme_of(
                capacities[pipeline, world], QUICK_LEVELS if options.quick else LEVELS, options.times
            )
            record = run_cell(subject, world, policy, programme, folder)
        except (IpaError, RuntimeError, subprocess.SubprocessError, httpx.HTTPError) as error:
            failed.append(f"{pipeline}, {world}, {policy}: did not run: {error}")
            print(failed[-1], file=sys.stderr, flush=True)
            continue
        figures.append(figures_of(pipeline, world, policy, programme, subject.sla_s, record))
        print(f"{pipeline}, {world}:", " | ".join(row(figures[-1])), flush=True)
    misses = [*failed, *missed(figures)]
    about = _about(subjects, time.monotonic() - started)
    if fixed := [f"{name} {world}" for name, world in options.rates if name in options.pipelines]:
        about += f" Loads of an earlier run: {', '.join(fixed)}."
    page = render(figures, refused, misses, about)
    (options.out / "table.md").write_text(page)
    (options.out / "cells.json").write_text(json.dumps([it.to_json() for it in figures], indent=1) + "\n")
    print(page)
    print(options.out / "table.md")
    return 1 if misses else 0


def _about(subjects: dict[str, Subject], took_s: float) -> str:
    on = machine()
    slowed = ", ".join(
        f"{name} {each.stage}={each.variant} {each.ratio:g}"
        for name, it in subjects.items()
        for each in it.slowdowns
    )
    planned = ", ".join(f"{name} {it.largest.rate_rps:.4g}" for name, it in subjects.items())
    return (
        f"{on['cores']} cores, {on['processor']}, Python {on['python']}; {took_s / 60:.0f} min. "
        f"Profiles of other machines are calibrated first ({slowed or 'none'} times their profiled time). "
        f"Capacities are measured: the most that the largest plan answered within the SLA ({planned} rps are "
        "planned). Shares, and settled shares (from 5 s after each step on), are of all sent before the "
        "overload; goodput is that of the overload, from its 5th second on, to the capacity. Accuracy is "
        "measured on the answers."
    )


if __name__ == "__main__":
    sys.exit(main())
