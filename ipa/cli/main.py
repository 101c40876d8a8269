"""The command `ipa`: one module per verb, one table of exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

import ipa
from ipa.cli.arguments import check_arguments
from ipa.clients import credential
from ipa.model.errors import IpaError, UsageError
from ipa.model.exits import ExitCode

# Each module has `register(app)`, which adds its verbs. Heavy imports belong inside the verbs' functions.
VERBS: tuple[str, ...] = (
    "ci",
    "completion",
    "demo",
    "doctor",
    "events",
    "explain",
    "fit",
    "fleet",
    "forecast",
    "frontier",
    "importing",
    "init",
    "key",
    "lifecycle",
    "overrides",
    "plan",
    "profile",
    "render",
    "replay",
    "serve",
    "simulate",
    "store",
    "validate",
)

# typer carries its own copy of click from 0.20 on; this is the root of that copy's errors, wherever it lives.
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
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="and exit"),
        token: str | None = typer.Option(
            None,
            "--token",
            help=f"says who you are to a service; better in {credential.VARIABLE}, unseen by ps",
        ),
    ) -> None:
        """Keeps inference pipelines inside their latency SLA at the best accuracy for the least cost."""
        credential.give(token)

    for verb in VERBS:
        import_module(f"ipa.cli.verbs.{verb}").register(app)
    check_arguments(app)
    return app


def run(arguments: list[str] | None = None) -> int:
    """The exit code of `ipa ARGUMENTS`; messages of errors go to standard error, never a traceback."""
    command = typer.main.get_command(build_app())
    try:
        result = command.main(args=arguments, prog_name="ipa", standalone_mode=False)
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
        typer.echo(f"error: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    except OSError as error:
        # A file that a verb reads or writes: missing, not allowed, or no room on the disk.
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        code = ExitCode.ERROR
    return code


def main() -> None:
    """Entry point of the `ipa` script."""
    sys.exit(run())
