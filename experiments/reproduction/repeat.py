"""Repeat one published run: python -m experiments.reproduction.repeat PIPELINE SETTINGS.json."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from experiments.reproduction.settings import repeated, settings_of
from ipa.bootstrap.targets import target_named
from ipa.files import load_profiles
from ipa.files.pipelines import find_pipeline
from ipa.files.reading import read_json
from ipa.service.simulation import as_served, rates_of
from ipa.settings import Settings
from ipa.simulate.run import simulate


def main(arguments: list[str] | None = None) -> int:
    """Simulate the run with its settings, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reproduction.repeat", description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("settings", type=Path, help="a `settings` object of the published runs")
    parser.add_argument("--workload", default="bursty", help="a named workload or a trace file")
    parser.add_argument("--minutes", type=float, help="minutes of the workload to use")
    parser.add_argument("--forecaster", default="foresight")
    parser.add_argument("--policy", help="ipa-artifact if not given")
    parser.add_argument("--spacing", help="arrivals within a second: poisson, even or burst (the default)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    given = Settings.from_env()
    pipeline = find_pipeline(args.pipeline, given.pipelines_dir)
    profiles = load_profiles(given.profiles_dir, pipeline.name)
    run = settings_of(read_json(args.settings), pipeline, profiles)
    rates = rates_of(args.workload, args.minutes, 1.0)
    setup = as_served(pipeline, profiles, rates, given, target_named("local"))
    setup = replace(setup, seed=args.seed, forecast=replace(setup.forecast, name=args.forecaster))
    setup = repeated(setup, run, policy=args.policy, spacing=args.spacing)
    print(json.dumps(simulate(setup).summary(), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
