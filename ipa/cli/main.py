"""The command `ipa`: one module per verb, one table of exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from traceback import print_exception
from typing import Any

import typer

import ipa
from ipa.cli.arguments import verb as as_verb
from ipa.cli.verb_help import GROUPS, help_text
from ipa.clients import credential
from ipa.model.errors import ExitCode, IpaError, UsageError

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

    groups: dict[str, typer.Typer] = {}
    for panel, verbs in GROUPS.items():
        for words, about in verbs.items():
            group, _, verb = words.rpartition(" ")
            if isinstance(about, str):
                groups[words] = typer.Typer(help=about, no_args_is_help=True)
                app.add_typer(groups[words], name=words, rich_help_panel=panel)
                continue
            name, *examples = about
            shown = ("Examples:", *examples) if len(examples) > 1 else (f"Example: {examples[0]}",)
            # Heavy imports belong inside the functions, whose names may end in an underscore.
            module = import_module(f"ipa.cli.verbs.{name}")
            function = getattr(module, f"{verb}_", None) or getattr(module, verb)
            groups.get(group, app).command(
                verb,
                help=help_text(function),
                epilog="\n\n".join(shown),
                rich_help_panel=None if group else panel,
            )(as_verb(function))
    return app


def run(arguments: list[str] | None = None) -> int:
    """The exit code of `ipa ARGUMENTS`; errors become messages on standard error.

    With `--traceback` their traceback is printed there too.
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
        # A file of the verb is missing or forbidden, or the disk is full.
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        code = ExitCode.ERROR
    return code


def main() -> None:
    """The entry point of the `ipa` script."""
    # Before numpy is imported: its threads would busy-wait for each other at matrices this small.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run())
