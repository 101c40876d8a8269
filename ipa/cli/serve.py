"""`ipa serve`: the control loop with its REST API and page."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ipa.model.decision import Mode
from ipa.model.errors import UsageError
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.bootstrap import App

# A tick in flight may take as long as the solver and one write; what then still runs ends with the process.
JOIN_S = 15.0


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    pipelines: Annotated[list[str] | None, typer.Argument(help="to control; all without")] = None,
    target: Annotated[str | None, typer.Option(help="local or kubernetes")] = None,
    mode: Annotated[Mode | None, typer.Option(help="as last time without; advisory at first")] = None,
    policy: Annotated[str, typer.Option(help="ours, ipa, fa2-low, fa2-high, rim, static")] = "ours",
    objective: Annotated[str | None, typer.Option(help="the pipelines' default without")] = None,
    rate: Annotated[float, typer.Option(help="rate in rps that a local pipeline starts with")] = 1.0,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    folder: Annotated[Path, typer.Option(help="where a local pipeline keeps its files")] = Path("runs/local"),
    solver: Annotated[str | None, typer.Option(help="auto, gurobi, highs or exact")] = None,
) -> None:
    """Control pipelines: observe, forecast, plan, act; with a REST API and a page."""
    from ipa.bootstrap import ServeOptions, build

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings.from_env(target=target, host=host, port=port, solver=solver)
    if settings.host not in ("127.0.0.1", "localhost", "::1"):
        raise UsageError(
            f"the API has no authentication yet, so it does not listen on {settings.host}",
            hint="Use 127.0.0.1 and a tunnel or a proxy that authenticates.",
        )
    options = ServeOptions(tuple(pipelines or ()), policy, objective, mode, rate, folder)
    running = build(settings, options)
    try:
        threads = [
            threading.Thread(target=loop.run, args=(running.stop,), name=f"loop-{name}", daemon=True)
            for name, loop in running.loops.items()
        ]
        for thread in threads:
            thread.start()
        _listen(settings, running)
        running.stop.set()
        for thread in threads:
            thread.join(JOIN_S)
    finally:
        running.close()


def _listen(settings: Settings, running: App) -> None:
    """Serve until a signal; uvicorn installs its own handlers, since this is the main thread."""
    import uvicorn

    from ipa.api.app import create_app
    from ipa.api.wiring import services_of

    typer.echo(f"ipa: page and API at http://{settings.host}:{settings.port}")
    uvicorn.run(
        create_app(services_of(running)),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
