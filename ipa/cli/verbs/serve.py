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

# By name here, since the table itself takes its time to load.
POLICY_NAMES = (
    "ours, ours-checked, ours-frugal, ipa, ipa-artifact, fa2-low, fa2-high, rim, infadapter, ms+, vpa+, "
    "hpa, kpa, static"
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    pipelines: Annotated[
        list[str] | None, typer.Argument(help="to control; all without", autocompletion=completing.pipelines)
    ] = None,
    target: Annotated[str | None, typer.Option(help="local or kubernetes")] = None,
    mode: Annotated[Mode | None, typer.Option(help="as last time without; advisory at first")] = None,
    policy: Annotated[str, typer.Option(help=f"one of: {POLICY_NAMES}")] = "ours",
    shadow_policy: Annotated[
        str | None, typer.Option(help="a second one that only says what it would do")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="the pipelines' default without")] = None,
    rate: Annotated[float, typer.Option(help="rate in rps that a local pipeline starts with")] = 1.0,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    folder: Annotated[Path, typer.Option(help="where a local pipeline keeps its files")] = Path("runs/local"),
    solver: Annotated[str | None, typer.Option(help="auto, gurobi, highs or exact")] = None,
    log: Annotated[Format, typer.Option(help="how a line of the log looks: text or json")] = Format.TEXT,
) -> None:
    """Control pipelines: observe, forecast, plan, act; with a REST API and a page."""
    from ipa.bootstrap.options import ServeOptions

    settings = Settings.from_env(target=target, host=host, port=port, solver=solver)
    options = ServeOptions(tuple(pipelines or ()), policy, objective, mode, rate, folder, shadow_policy)
    with logged(log) as logs:
        run_service(settings, options, logs)
