"""A running pipeline and its changed file: can its processes go on, and which are started otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from ipa.model.errors import ConflictError
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.targets.local.replica import local_run, model_of
from ipa.targets.local.section import local_of, port_of

AGAIN = "Restart the service to apply the file."


def check_adoptable(running: Pipeline, changed: Pipeline, configs: Iterable[StageConfig]) -> None:
    """ConflictError if what runs, with the `configs`, cannot go on as the changed pipeline."""
    there, here = [it.name for it in changed.stages], [it.name for it in running.stages]
    if there != here:
        raise ConflictError(
            f"the stages would be {', '.join(there)} instead of {', '.join(here)}", hint=AGAIN
        )
    if port_of(changed) != port_of(running):
        raise ConflictError("the port of the router would change, which takes a restart", hint=AGAIN)
    for stage in changed.stages:
        if model_of(stage) != model_of(running.stage(stage.name)):
            raise ConflictError(f"`resident` of {stage.name} would change, which takes a restart", hint=AGAIN)
        for variant in stage.variants:
            local_run(changed, stage.name, variant.name)
    for config in configs:
        if config.variant not in [it.name for it in changed.stage(config.stage).variants]:
            raise ConflictError(
                f"the variant {config.variant} of {config.stage} runs, and is no longer in the file",
                hint=f"Run another one first: `ipa pin {running.name} {config.stage} --variant ...`.",
            )


def started_otherwise(before: Stage, now: Stage) -> frozenset[str]:
    """The variants that are started in another way than before."""
    old = {variant.name: local_of(variant) for variant in before.variants}
    return frozenset(it.name for it in now.variants if it.name in old and local_of(it) != old[it.name])
