"""The command `ipa`: one module per verb, one table of exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from traceback import print_exception
from typing import Any

import typer

import ipa
from ipa.cli.arguments import check_arguments
from ipa.cli.verb_help import arrange
from ipa.clients import credential
from ipa.model.errors import IpaError, UsageError
from ipa.model.exits import ExitCode

# The verbs of each module: functions, whose names may end in an underscore. Heavy imports belong inside them.
VERBS: Mapping[str, tuple[str, ...]] = {
    "ci": ("ci",),
    "compare": ("compare",),
    "completion": ("completion",),
    "config": ("show",),
    "deploy": ("deploy",),
    "doctor": ("doctor",),
    "events": ("events", "audit", "replay"),
    "experiment": ("run", "compare", "report"),
    "fit": ("profile", "fit"),
    "forecast": ("backtest",),
    "init": ("init", "import"),
    "key": ("create", "list", "revoke"),
    "lifecycle": (
        *("status", "history", "diff", "apply", "rollback", "pause", "resume", "watch"),
        *("mode", "pin", "unpin", "freeze", "unfreeze", "release"),
    ),
    "plan": ("plan", "sweep", "explain", "frontier", "fleet", "render"),
    "probe": ("infer", "probe", "url"),
    "push": ("push",),
    "serve": ("serve", "demo"),
    "simulate": ("simulate",),
    "store": ("backup", "restore", "prune", "stats"),
    "validate": ("validate", "schema"),
}
# The modules whose verbs follow the module's name, as in `ipa key create`.
GROUPS: Mapping[str, str] = {
    "config": "Show the settings in effect.",
    "experiment": "Run experiments: policies, loads and seeds in the simulator, with a report to cite.",
    "forecast": "Evaluate forecasters of the load.",
    "key": "Create, list and revoke API keys of the service.",
    "store": "Back up, restore, prune and measure the store of the service.",
}

# Values of the context: options beside the verb.
TRACEBACK = "traceback"
# The root of click's errors: typer has its own copy of click from 0.20 on.
_CommandLineError: type[Any] = typer.BadParameter.__bases__[0].__bases__[0]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ipa {ipa.__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The typer application with every verb."""
    app = typer.Typer(
        name="ipa",
        help="Keeps inference pipelines inside their latency SLA at the best accuracy for the least cost.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _root(
        context: typer.Context,
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="print the version and exit"
        ),
        token: str | None = typer.Option(
            None,
            "--token",
            help=f"token of a service that asks for authentication; {credential.VARIABLE} hides it from ps",
        ),
        traceback: bool = typer.Option(False, "--traceback", help="print where an error comes from"),
    ) -> None:
        """Keeps inference pipelines inside their latency SLA at the best accuracy for the least cost."""
        credential.give(token)
        if traceback and context.obj is not None:
            context.obj.add(TRACEBACK)

    for name, verbs in VERBS.items():
        module, place = import_module(f"ipa.cli.verbs.{name}"), app
        if name in GROUPS:
            place = typer.Typer(help=GROUPS[name], no_args_is_help=True)
            app.add_typer(place, name=name)
        for verb in verbs:
            place.command(verb)(getattr(module, f"{verb}_", None) or getattr(module, verb))
    arrange(app)
    check_arguments(app)
    return app


def run(arguments: list[str] | None = None) -> int:
    """The exit code of `ipa ARGUMENTS`; errors are messages on standard error.

    Their traceback goes there too if `--traceback` was given.
    """
    wanted: set[str] = set()
    command = typer.main.get_command(build_app())
    try:
        result = command.main(args=arguments, prog_name="ipa", standalone_mode=False, obj=wanted)
        code = result if isinstance(result, int) else 0
    except typer.Exit as stop:
        code = int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        code = ExitCode.INTERRUPTED
    except _CommandLineError as error:
        error.show()
        code = UsageError.exit_code
    except IpaError as error:
        if TRACEBACK in wanted:
            print_exception(error)
        typer.echo(f"error: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    except OSError as error:
        # A file that a verb reads or writes is missing or forbidden, or the disk is full.
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        code = ExitCode.ERROR
    return code


def main() -> None:
    """Entry point of the `ipa` script."""
    sys.exit(run())
