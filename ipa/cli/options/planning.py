"""Options of the verbs that plan from files."""

from __future__ import annotations

import typer

from ipa.cli import shell_completion as completing

PIPELINE = typer.Argument(
    metavar="PIPELINE",
    help="name of a folder of pipelines/, or path of a pipeline.yaml",
    autocompletion=completing.pipelines,
)
OBJECTIVE = typer.Option(
    None, "--objective", help="objective of the pipeline's file; its default if not given"
)
COMPAT = typer.Option(
    "tail", "--compat", help="latency model: tail (the SLA's percentile), paper or ipa-artifact"
)
ALLOCATION = typer.Option(
    "free",
    "--allocation",
    help="cores of a replica: free (chosen by the plan) or base (fixed as in the IPA paper)",
)
PLAN_COMPAT = typer.Option(
    None,
    "--compat",
    help="latency model: tail (the SLA's percentile; the default), paper (for sets) or ipa-artifact",
)
SETS = typer.Option(None, "--sets/--no-sets", help="let several variants of the only stage share its load")
AT = typer.Option(
    None, "--at", help="kubernetes: count the containers beside the replicas in cost and budget"
)
PLAN_AT = typer.Option(
    None,
    "--at",
    metavar="WHERE",
    help="kubernetes: count the containers beside the replicas; for --out also a URL or a FILE.yaml",
)
OUT = typer.Option(None, "--out", metavar="FILE", help="save the plan for `ipa apply FILE`; needs --at")
DETAILED = typer.Option(
    False,
    "--detailed-exitcode",
    help="exit code 2 if the plan differs from the running configuration; needs --at",
)
RUNNING = typer.Option(
    None, "--running", help="file of the running configuration: a plan of -o json, or a list of stages"
)
PIPELINES_DIR = typer.Option(
    None, "--pipelines-dir", help="folder of pipelines; IPA_PIPELINES_DIR if not given"
)
PROFILES_DIR = typer.Option(None, "--profiles-dir", help="folder of profiles; IPA_PROFILES_DIR if not given")
