"""Options of the verbs about a running pipeline."""

from __future__ import annotations

import getpass

import typer

from ipa.cli import shell_completion as completing

PIPELINE = typer.Argument(metavar="PIPELINE", help="the pipeline's name", autocompletion=completing.pipelines)


DEFAULT_AT = "http://127.0.0.1:8080"


AT = typer.Option(
    DEFAULT_AT,
    "--at",
    metavar="WHERE",
    envvar="IPA_AT",
    help="a service's URL, kubernetes[:KUBECONFIG], or a SeldonDeployment's FILE.yaml",
)


NAMESPACE = typer.Option(
    None, "--namespace", "-n", help="of a cluster or a file, instead of the one that the pipeline's file says"
)


BY = typer.Option(None, "--by", help="who asks; you without")


REASON = typer.Option("", "--reason", help="why; it is kept with the decision")


RATE = typer.Option(None, "--rate", help="requests a second to plan for; a service's forecast without")


OBJECTIVE = typer.Option(None, "--objective", help="one of the pipeline's objectives")


PLAN = typer.Option(None, "--plan", metavar="FILE", help="a plan, as `ipa plan -o json` prints it")


PIPELINE_OR_PLAN = typer.Argument(
    metavar="PIPELINE",
    help="its name, or a FILE.json of `ipa plan --out`",
    autocompletion=completing.pipelines,
)


APPLY_AT = typer.Option(
    None,
    "--at",
    metavar="WHERE",
    envvar="IPA_AT",
    help="as for the other verbs; a saved plan says where it was made for",
)


def me() -> str:
    """The name of who types."""
    return getpass.getuser()
