"""`ipa serve`: the control loop with its REST API and page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.run_service import run_service
from ipa.model.decision import Mode
from ipa.serving.logs import Format, logged
from ipa.settings import Settings

# A copy of the names: the table of policies takes long to import.
POLICY_NAMES = (
    "ours, ours-checked, ours-frugal, ipa, ipa-artifact, fa2-low, fa2-high, rim, infadapter, ms+, vpa+, "
    "hpa, kpa, static"
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(help="pipelines to control; all if not given", autocompletion=completing.pipelines),
    ] = None,
    target: Annotated[str | None, typer.Option(help="local or kubernetes; IPA_TARGET if not given")] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="mode of the pipelines; as before if not given, at first advisory")
    ] = None,
    policy: Annotated[str, typer.Option(help=f"one of: {POLICY_NAMES}")] = "ours",
    shadow_policy: Annotated[
        str | None, typer.Option(help="second policy, which only records what it would do")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="objective; the default of each pipeline if not given")
    ] = None,
    rate: Annotated[float, typer.Option(help="rate in rps that a local pipeline is first planned for")] = 1.0,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    folder: Annotated[Path, typer.Option(help="folder for the files of local pipelines")] = Path(
        "runs/local"
    ),
    solver: Annotated[str | None, typer.Option(help="auto, gurobi, highs or exact")] = None,
    log: Annotated[Format, typer.Option(help="format of the log: text or json")] = Format.TEXT,
) -> None:
    """Run the service: the control loops, the REST API and the page."""
    from ipa.bootstrap.options import ServeOptions

    settings = Settings.from_env(target=target, host=host, port=port, solver=solver)
    options = ServeOptions(tuple(pipelines or ()), policy, objective, mode, rate, folder, shadow_policy)
    with logged(log) as logs:
        run_service(settings, options, logs)
