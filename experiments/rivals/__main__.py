"""Compares all policies in ipa-paper and ipa-tight, and says where another one is better than ours.

`--write` puts how often who dominates whom into docs/reference/measured.md, and the cases in which ours is
dominated into docs/explanation/beating-ipa.md. Kept outcomes are not computed again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.measured import PAGE, ROOT, tell
from experiments.rivals.page import by_case, counts, figures, losses
from ipa.cli.output import progress
from ipa.experiment.reading import find_experiment, load_experiment
from ipa.experiment.results import Results, conduct
from ipa.experiment.runners import Experiment

COMMAND = "python -m experiments.rivals"
EXPLANATION = ROOT / "docs" / "explanation" / "beating-ipa.md"
NAMES = ("ipa-paper", "ipa-tight")


def main() -> int:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the pipelines, loads and seeds of the quick forms"
    )
    parser.add_argument("--seeds", type=int, help="seeds of each case, instead of those of the files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--write", action="store_true", help="also put the tables into the docs")
    arguments = parser.parse_args()
    results: list[Results] = []
    for name in NAMES:
        experiment = read(name, quick=arguments.quick)
        if arguments.seeds:
            experiment = replace(experiment, seeds=tuple(range(1, arguments.seeds + 1)))
        results.append(conduct(experiment, arguments.out, arguments.workers, watch=partial(progress, name)))
    parts = (size(results), figures(results), counts(results), by_case(results))
    (arguments.out / "rivals.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(figures(results), end="\n\n")
    tell(COMMAND, f"{size(results)}\n\n{counts(results)}", PAGE, write=arguments.write)
    tell(COMMAND, losses(results), EXPLANATION, write=arguments.write)
    return 0


def read(name: str, *, quick: bool) -> Experiment:
    """The experiment with all policies and forecasts, also in the quick form."""
    path = find_experiment(name, ROOT / "experiments")
    folders = {"pipelines_dir": ROOT / "pipelines", "profiles_dir": ROOT / "profiles"}
    whole = load_experiment(path, **folders)
    shorter = load_experiment(path, quick=quick, **folders)
    return replace(shorter, policies=whole.policies, forecasters=whole.forecasters)


def size(results: list[Results]) -> str:
    """What the figures are of."""
    experiments = [each.experiment for each in results]
    form = "of the quick forms" if experiments[0].is_quick else "all"
    return f"Weights `paper-v3`, {len(experiments[0].seeds)} seeds, cases: {form}."


if __name__ == "__main__":
    sys.exit(main())
