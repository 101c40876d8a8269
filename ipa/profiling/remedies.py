"""The commands that measure profiles: of pipelines that run here, and of those that are only planned."""

from __future__ import annotations


def measure_command(pipeline: str, stage: str = "", *, planned_only: bool = False) -> str:
    """The command that measures the profiles of the pipeline, or of one stage.

    A pipeline that is `planned_only` has no model servers to start: copies are measured where its models run.
    """
    of_stage = f" -s {stage}" if stage else ""
    place = " --at kubernetes" if planned_only else ""
    return f"ipa profile {pipeline}{of_stage}{place} --write"


def remedy_of_doubt(pipeline: str, stage: str, *, planned_only: bool) -> str:
    """The remedy for a profile that cannot be believed, which ends with the command."""
    where = (
        "its pipeline is only planned, so it cannot be measured here; where its models run, with a bench.py "
        "of their requests"
        if planned_only
        else "measure it on a quiet machine"
    )
    return f"{where}: {measure_command(pipeline, stage, planned_only=planned_only)}"
