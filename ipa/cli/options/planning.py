"""Options of the verbs that plan from files."""

from __future__ import annotations

import typer

from ipa.cli import shell_completion as completing

PIPELINE = typer.Argument(
    metavar="PIPELINE",
    help="a name under the pipelines folder, or a pipeline.yaml",
    autocompletion=completing.pipelines,
)


OBJECTIVE = typer.Option(None, "--objective", help="one of the pipeline's objectives")


COMPAT = typer.Option("tail", "--compat", help="latency: tail (the SLA's percentile), paper or ipa-artifact")


ALLOCATION = typer.Option("free", "--allocation", help="cores of a replica: base (as IPA fixes them) or free")


SOLVER = typer.Option(None, "--solver", help="auto, gurobi, highs or exact")


PLAN_COMPAT = typer.Option(
    None,
    "--compat",
    help="latency: tail (the SLA's percentile), paper or ipa-artifact; tail where absent, for sets paper",
)


SETS = typer.Option(None, "--sets/--no-sets", help="several variants of a lone stage share its load, or not")


MAX_PREDICTORS = typer.Option(
    None, "--max-predictors", help="how many configurations may share the load, 1 to 3"
)


AT = typer.Option(
    None, "--at", help="kubernetes: what runs there beside the replicas counts in cost and budget"
)


PLAN_AT = typer.Option(
    None,
    "--at",
    metavar="WHERE",
    help="kubernetes: what runs there beside the replicas counts; for --out also as `ipa apply` has it",
)


OUT = typer.Option(None, "--out", metavar="FILE", help="save the plan for `ipa apply FILE`; needs --at")


DETAILED = typer.Option(False, "--detailed-exitcode", help="2 where it changes what runs; needs --at")


RUNNING = typer.Option(
    None, "--running", help="what runs now: a plan as printed by -o json, or a list of stages"
)


PIPELINES_DIR = typer.Option(None, "--pipelines-dir", help="folder of pipelines")


PROFILES_DIR = typer.Option(None, "--profiles-dir", help="folder of profiles")
