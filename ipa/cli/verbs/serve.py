"""`ipa serve`: the control loop with its REST API and page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.options.plugins import FORECASTER, POLICY, SHADOW_POLICY, SOLVER
from ipa.cli.run_service import run_service
from ipa.model.decision import Mode
from ipa.serving.logs import Format, logged
from ipa.settings import Settings


def serve(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(help="pipelines to control; all if not given", autocompletion=completing.pipelines),
    ] = None,
    target: Annotated[str | None, typer.Option(help="local or kubernetes; IPA_TARGET if not given")] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="mode of the pipelines; as before if not given, at first advisory")
    ] = None,
    policy: str = POLICY,
    shadow_policy: str | None = SHADOW_POLICY,
    forecaster: str | None = FORECASTER,
    objective: Annotated[
        str | None, typer.Option(help="objective; the default of each pipeline if not given")
    ] = None,
    rate: Annotated[float, typer.Option(help="rate in rps that a local pipeline is first planned for")] = 1.0,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    folder: Annotated[Path, typer.Option(help="folder for the files of local pipelines")] = Path(
        "runs/local"
    ),
    solver: str | None = SOLVER,
    log: Annotated[Format, typer.Option(help="format of the log: text or json")] = Format.TEXT,
) -> None:
    """Run the service: the control loops, the REST API and the page."""
    from ipa.bootstrap.options import ServeOptions

    settings = Settings.from_env(target=target, host=host, port=port, solver=solver, forecaster=forecaster)
    options = ServeOptions(tuple(pipelines or ()), policy, objective, mode, rate, folder, shadow_policy)
    with logged(log) as logs:
        run_service(settings, options, logs)
