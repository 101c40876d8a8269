"""Options of the verbs about a running pipeline."""

from __future__ import annotations

import getpass

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.options import planning


def me() -> str:
    """The user name of the person at the command line."""
    return getpass.getuser()


PIPELINE = typer.Argument(
    metavar="PIPELINE", help="name of the pipeline", autocompletion=completing.pipelines
)
DEFAULT_AT = "http://127.0.0.1:8080"
AT = typer.Option(
    DEFAULT_AT,
    "--at",
    metavar="WHERE",
    envvar="IPA_AT",
    help="a service's URL, kubernetes[:KUBECONFIG], or a manifest's FILE.yaml",
)


NAMESPACE = typer.Option(
    None,
    "--namespace",
    "-n",
    help="namespace on a cluster or in a manifest, instead of that of the pipeline's file",
)
BY = typer.Option(
    "",
    "--by",
    callback=lambda by: by or me(),
    show_default=False,
    help="name to record as the author; your user name if not given",
)
REASON = typer.Option("", "--reason", help="reason, kept with the decision")
RATE = typer.Option(
    None, "--rate", help="requests a second to plan for; the forecast of the service if not given"
)
OBJECTIVE = planning.OBJECTIVE
PLAN = typer.Option(None, "--plan", metavar="FILE", help="file of a plan, as `ipa plan -o json` prints it")
PIPELINE_OR_PLAN = typer.Argument(
    metavar="PIPELINE",
    help="name of the pipeline, or a FILE.json of `ipa plan --out`",
    autocompletion=completing.pipelines,
)
# Not the variable's before that of a saved plan, which is for one place.
APPLY_AT = typer.Option(
    None,
    "--at",
    metavar="WHERE",
    help="a service's URL, kubernetes[:KUBECONFIG] or a FILE.yaml; that of the saved plan, or for any other "
    "IPA_AT, if not given",
)
