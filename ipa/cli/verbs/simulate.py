"""`ipa simulate`: a pipeline under a load, controlled by a policy, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from ipa.cli.lookup import load
from ipa.cli.options.experiments import ALLOW_FAILURES, check_failures
from ipa.cli.options.parsing import accelerator_counts, names, option
from ipa.cli.options.planning import OBJECTIVE, PIPELINE, PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output, progress, show
from ipa.forecast.registry import FORECASTERS
from ipa.policies.registry import POLICIES


def simulate(
    pipeline: str = PIPELINE,
    *,
    workload: str = typer.Option(
        "bursty",
        help="bursty, steady_low, steady_high, fluctuating, or a trace file (or FILE?scale=2&from=1h)",
    ),
    policy: str | None = option(
        None,
        POLICIES,
        "--policy",
        help_text="one of `ipa serve`, or oracle; ours if not given",
    ),
    seed: int = typer.Option(
        0, min=0, help="seed of arrivals and service times; equal seeds give equal runs"
    ),
    repeats: int = typer.Option(
        1, min=1, max=20, help="number of seeds, from --seed on; prints means and 95 % intervals"
    ),
    objective: str | None = OBJECTIVE,
    minutes: float | None = typer.Option(
        None, min=0.0, help="minutes of the workload to use; all if not given"
    ),
    times: float = typer.Option(1.0, min=0.0, help="factor on the rates of the workload"),
    spacing: str = typer.Option("poisson", help="arrivals within a second: poisson, even or burst"),
    forecaster: str | None = option(
        None, FORECASTERS, "--forecaster", "--forecast", help_text=f"one of: {names(FORECASTERS)}"
    ),
    target: str = typer.Option("local", help="replace and observe pods as local or kubernetes does"),
    capacity: float | None = typer.Option(None, help="cores of the cluster; pods that do not fit wait"),
    accelerators: list[str] = typer.Option(
        [], help="KIND=COUNT of the cluster, such as nvidia.com/gpu=4; may be repeated"
    ),
    allow_failures: bool = ALLOW_FAILURES,
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Run the control loop on a simulated pipeline and print the results."""
    from ipa.bootstrap.targets import check_honoured, target_named
    from ipa.cli.views.simulate_text import result_lines
    from ipa.service.simulation import as_served, over_seeds_of, rates_of

    place = target_named(target)
    found, profiles, given = load(pipeline, pipelines_dir, profiles_dir)
    check_honoured(place, [found])
    setup = as_served(found, profiles, rates_of(workload, minutes, times), given, place)
    setup = replace(
        setup,
        policy=policy or "ours",
        objective=objective,
        seed=seed,
        spacing=spacing,
        forecast=replace(setup.forecast, name=forecaster or given.forecaster),
        cluster=replace(setup.cluster, capacity_cores=capacity, capacity=accelerator_counts(accelerators)),
    )
    with progress(f"simulating {len(setup.rates_rps) / 60:g} min", repeats if repeats > 1 else None) as step:
        first, figures = over_seeds_of(setup, repeats, step)
    show(output, figures, result_lines(first, figures, repeats))
    check_failures([{"policy": first.policy, **figures}], is_allowed=allow_failures)
