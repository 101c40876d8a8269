"""`ipa serve` and `ipa demo`: the service with its REST API and page, over real or simulated pipelines."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa.cli.options import FORECASTER, POLICY, SHADOW_POLICY, SOLVER, FileFolders, complete_pipelines
from ipa.cli.run_service import run_service
from ipa.model.decision import Mode
from ipa.model.errors import IpaError, UsageError
from ipa.serving.logs import Format, logged
from ipa.settings import Settings, variable_of

if TYPE_CHECKING:
    from ipa.bootstrap.targets import Simulated

# Seconds of generated load: more than a working day, and at ten times the speed an hour and a half.
LASTS_S = 60_000
# The demo starts with the plan for the highest rate of so many simulated seconds: then forecasts carry on.
START_S = 60
MOVING, STEADY = (
    "The load rises and falls, with a burst every seven simulated minutes.",
    "The load is steady.",
)
LOOK_AT = (
    "Look at the latency on the page: it is kept below the SLA while variants, batches and replicas change.\n"
    "Each line below is such a change with its reason; the page and `ipa watch` show the same times."
)


def serve(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(help="pipelines to control; all if not given", autocompletion=complete_pipelines),
    ] = None,
    target: Annotated[str | None, typer.Option(help="local or kubernetes; IPA_TARGET if not given")] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="mode of the pipelines; unchanged if not given, advisory at first")
    ] = None,
    policy: str = POLICY,
    shadow_policy: str | None = SHADOW_POLICY,
    forecaster: str | None = FORECASTER,
    objective: Annotated[
        str | None, typer.Option(help="objective; the default of each pipeline if not given")
    ] = None,
    rate: Annotated[float, typer.Option(help="rate in rps for the first plan of a local pipeline")] = 1.0,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    folder: Annotated[Path, typer.Option(help="folder for the files of local pipelines")] = Path(
        "runs/local"
    ),
    solver: str | None = SOLVER,
    log: Annotated[Format, typer.Option(help="format of the log: text or json")] = Format.TEXT,
) -> None:
    """Run the service: the control loops, the REST API and the page."""
    from ipa.bootstrap.targets import ServeOptions

    settings = Settings.from_env(target=target, host=host, port=port, solver=solver, forecaster=forecaster)
    options = ServeOptions(tuple(pipelines or ()), policy, objective, mode, rate, folder, shadow_policy)
    with logged(log) as logs:
        try:
            run_service(settings, options, logs)
        except IpaError as error:
            if not logs.is_json:
                raise
            logging.getLogger("ipa.serve").error("%s", error)
            raise typer.Exit(error.exit_code) from error


def demo(
    pipeline: str | None = typer.Argument(
        None,
        help="a pipeline of your own with profiles; the packaged example if not given",
        autocompletion=complete_pipelines,
    ),
    *,
    rates: str = typer.Option(
        "2:18",
        "--rates",
        help="LOW:HIGH, requests per second between which the load varies, with bursts above; 6:6 is steady",
    ),
    speed: float = typer.Option(10.0, "--speed", min=0.1, max=60.0, help="simulated seconds for each second"),
    mode: Mode = typer.Option(Mode.ACTIVE, "--mode", help="mode of the pipeline"),
    policy: str = POLICY,
    host: str | None = typer.Option(None, "--host", help="address to listen on"),
    port: int | None = typer.Option(None, "--port", help="port to listen on; 0 for any"),
    seed: int = typer.Option(0, "--seed", min=0, help="seed of the load and of the service times"),
    folders: FileFolders,
) -> None:
    """Run the service over a simulated pipeline: page, API and all verbs, without a cluster, GPU or licence.

    Loop, planner, guards and record are those of production. Ends with Ctrl-C and removes its files.
    """
    from ipa.bootstrap.targets import ServeOptions
    from ipa.cli.run_service import run_service
    from ipa.files.packaged import EXAMPLE, example_folders
    from ipa.serving.logs import Format, logged

    simulated = _simulated(rates, speed, seed)
    given = (folders.pipelines_dir, folders.profiles_dir)
    pipelines_dir, profiles_dir = given if pipeline else example_folders()
    with (
        logged(Format.TEXT, shown_at=simulated.pace.simulated) as logs,
        TemporaryDirectory(prefix="ipa-demo-") as folder,
    ):
        logging.getLogger().setLevel(logging.WARNING)
        # The decisions are what a demo shows.
        logging.getLogger("ipa.control").setLevel(logging.INFO)
        # Settings of a real service in the environment do not apply to the demo.
        own: dict[str, Any] = {
            "store_url": f"sqlite:///{folder}/demo.sqlite3",
            "target": "simulated",
            "actuation": "cluster",
            "leader_election": "off",
            "auth": "",
            "forecast_trace": "",
        }
        origins = Settings.from_env().origins
        ignored = [variable_of(name) for name in own if name in origins]
        if ignored:
            typer.echo(f"ipa: the demo ignores {', '.join(ignored)}", err=True)
        settings = Settings.from_env(
            pipelines_dir=pipelines_dir, profiles_dir=profiles_dir, host=host, port=port, **own
        )
        options = ServeOptions(
            (pipeline or EXAMPLE,),
            policy,
            mode=mode,
            start_rate_rps=float(max(simulated.rates_rps[:START_S])),
            simulated=simulated,
        )
        low, _, high = rates.partition(":")
        load = f"{low} rps.\n{STEADY}" if float(low) == float(high) else f"{low} to {high} rps.\n{MOVING}"
        typer.echo(f"ipa: {pipeline or EXAMPLE} is simulated, ×{speed:g}, under {load}\n{LOOK_AT}")
        run_service(settings, options, logs)


def _simulated(rates: str, speed: float, seed: int) -> Simulated:
    """The load and the pace of the simulated world."""
    from ipa.bootstrap.targets import Simulated
    from ipa.simulate.realtime import Pace, moving_load

    try:
        low_rps, high_rps = map(float, rates.split(":"))
    except ValueError:
        low_rps = high_rps = 0.0
    if not 0 < low_rps <= high_rps < float("inf"):
        raise UsageError(f"--rates {rates!r} is not LOW:HIGH, two rates above 0", hint="For example 2:18")
    return Simulated(moving_load(low_rps, high_rps, LASTS_S, seed), Pace(speed), seed)
