"""A published run as a simulator setup, so that it can be repeated."""

from __future__ import annotations

from dataclasses import replace

from ipa.policies.base import Policy
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.published import PublishedRun
from ipa.simulate.run import SimSetup

# More replicas than any step, and more ticks than any run.
NO_LIMIT = 1_000_000


def repeated(
    setup: SimSetup, run: PublishedRun, *, policy: str | Policy | None = None, spacing: str | None = None
) -> SimSetup:
    """The setup with the settings of the run, and the other differences of the released system.

    It plans with `policy` (None: ipa-artifact) for a point forecast of per-second rates and its margin,
    applies each new plan at once, adds nothing by itself, drops a whole batch with its oldest member, and is
    sent the requests of a second at its start (`spacing` None). The first configuration is used if it was
    measured.
    """
    known = GroundTruth(run.pipeline, setup.profiles)
    starting = run.starting if all(known.knows(config) for config in run.starting) else ()
    return replace(
        setup,
        pipeline=run.pipeline,
        objective=None,
        policy="ipa-artifact" if policy is None else policy,
        spacing=spacing or "burst",
        drop="batch",
        start=starting or setup.start,
        forecast=replace(setup.forecast, quantile=0.5, smooth_s=1.0, margin_ratio=run.margin_ratio),
        guards=replace(
            setup.guards,
            tick_s=run.interval_s,
            peek_s=0.0,
            down_after_ticks=1,
            tolerance_ratio=0.0,
            max_step_replicas=NO_LIMIT,
            crowded_ticks=NO_LIMIT,
            correct_profiles=False,
        ),
    )
