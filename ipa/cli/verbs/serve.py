"""`ipa serve` and `ipa demo`: the service with its REST API and page, over real or simulated pipelines."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa.cli.options import (
    FORECASTER,
    POLICY,
    SHADOW_POLICY,
    SOLVER,
    FileFolders,
    complete_pipelines,
    rate_range,
)
from ipa.model.decision import Mode
from ipa.model.errors import IpaError, UnavailableError
from ipa.serving.logs import Format, LineQueue, logged
from ipa.settings import Settings, variable_of

if TYPE_CHECKING:
    from ipa.bootstrap.app import App
    from ipa.bootstrap.targets import ServeOptions

LOG = logging.getLogger("ipa.serve")
# Seconds for a tick in flight: the solver's deadline and one write; later ticks end with the process.
JOIN_S = 15.0
# Seconds for changes that were requested over the API.
LAST_S = 1.0
# Milliseconds after which a connection whose client takes nothing is closed.
STUCK_MS = 60_000
# Pipelines whose addresses are printed at start.
MOST_ADDRESSES = 10
# Seconds of generated load: more than a working day, and at ten times the speed an hour and a half.
LASTS_S = 60_000
# The demo starts with the plan for the highest rate of these simulated seconds; then forecasts carry on.
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
            LOG.error("%s", error)
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
    from ipa.bootstrap.targets import ServeOptions, Simulated
    from ipa.files.pipelines import EXAMPLE, example_folders
    from ipa.simulate.realtime import moving_load

    low_rps, high_rps = rate_range("--rates", rates)
    simulated = Simulated(moving_load(low_rps, high_rps, LASTS_S, seed), speed, seed)
    given = (folders.pipelines_dir, folders.profiles_dir)
    pipelines_dir, profiles_dir = given if pipeline else example_folders()
    with (
        logged(Format.TEXT, shown_at=simulated.simulated) as logs,
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
        ends = f"{low_rps:g} to {high_rps:g} rps.\n{MOVING}"
        load = f"{low_rps:g} rps.\n{STEADY}" if low_rps == high_rps else ends
        typer.echo(f"ipa: {pipeline or EXAMPLE} is simulated, ×{speed:g}, under {load}\n{LOOK_AT}")
        run_service(settings, options, logs)


def run_service(settings: Settings, options: ServeOptions, logs: LineQueue) -> None:
    """Run the service until a signal; `logs` counts lost lines.

    Errors: those of `build`; UnavailableError: the port is in use.
    """
    from ipa.api.external_scaler import external_scaler
    from ipa.bootstrap.app import build
    from ipa.bootstrap.identity import check_listening
    from ipa.metering import table
    from ipa.metering.make import Figures

    check_listening(settings)
    # Before anything is started, so that a port in use is reported at once.
    with _bound(settings.host, settings.port) as listener:
        running = build(settings, options)
        running.registry.register(Figures((table.LOG_DROPPED, lambda: logs.dropped)))
        if options.simulated is not None:
            # Time starts now: until here no loop controlled the load.
            options.simulated.begin()
        try:
            with external_scaler(running.settings, running.registry, running.pipelines):
                if running.leadership is not None:
                    running.leadership.start()
                running.roster.start()
                _listen(running, listener, LOG.info if logs.is_json else typer.echo)
            # Ticks and changes are finished, then another replica may lead.
            running.stop.set()
            running.roster.join(JOIN_S)
            running.hand_over(lambda: all(loop.idle(LAST_S) for loop in list(running.loops.values())))
        finally:
            running.close()


def _bound(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. UnavailableError if the port is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it: a client that reads nothing is disconnected.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="Choose another port with --port."
        ) from error
    return listener


def _listen(running: App, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Answer requests until a signal."""
    from ipa.api.app import create_app
    from ipa.api.wiring import make_context, server_bounds, server_config, settle
    from ipa.bootstrap.identity import allowed_hosts
    from ipa.serving.protocol import BoundedServer

    class Server(BoundedServer):
        """A server without uvicorn's signal handling, which would end the process before its children."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            settle()
            # Only now, since a reader of the address may call it at once.
            say("ipa: page and API at http://{}:{}".format(*listener.getsockname()[:2]))
            pipelines = list(running.pipelines.values())
            addresses = [
                (it.name, address.url) for it in pipelines if (address := running.roster.address(it)).url
            ]
            for name, url in addresses[:MOST_ADDRESSES]:
                say(f"ipa: requests of {name} go to {url}")
            if (others := len(addresses) - MOST_ADDRESSES) > 0:
                say(f"ipa: `ipa url PIPELINE` prints where those of {others} others go")

    app = create_app(make_context(running), hosts=allowed_hosts(running.settings))
    server = Server(server_config(app, server_bounds(running.settings)))

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True
        # No tick begins while the API ends.
        running.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[listener])
