"""A change from what runs to a plan, in words."""

from __future__ import annotations

from rich.console import Console

from ipa.cli.views.plan_text import print_line
from ipa.model.plan import StageConfig
from ipa.optimize.change import PlanTransition, StageChange


def print_change(change: PlanTransition, out: Console) -> None:
    """Print which stages change and the cores before, at the peak and after."""
    if not change.stages:
        print_line(out, f"  Change: none, {change.after_cores:g} cores run as planned.")
        return
    stages = "1 stage" if len(change.stages) == 1 else f"{len(change.stages)} stages"
    print_line(out, f"  Change: {stages}, {change.started_cores:g} cores to start.")
    for stage in change.stages:
        print_line(out, f"    {_words(stage)}")
    print_line(
        out,
        f"    cores {change.before_cores:g} → {change.after_cores:g}, "
        f"{change.peak_cores:g} while old and new replicas run side by side",
    )


def _words(change: StageChange) -> str:
    before, after = change.before, change.after
    if before is None:
        return f"{change.stage}: {_config(after)} (not known what runs)"
    if change.only_replicas:
        return f"{change.stage}: {before.replicas} → {after.replicas} replicas of {_pod(after)}"
    return f"{change.stage}: {_config(before)} → {_config(after)}"


def _pod(config: StageConfig) -> str:
    return f"{config.variant} b{config.batch_size} on {config.cores:g} cores"


def _config(config: StageConfig) -> str:
    return f"{config.variant} b{config.batch_size} {config.replicas}×{config.cores:g} cores"
