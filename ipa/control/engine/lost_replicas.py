"""Replicas that are not ready and that no change waits for: plans are made around them.

A pod in a crash loop or on a lost node may come back in a moment or never. Until then the stage has the
replicas that serve, and those that a plan asks for come beside the lost ones.
"""

from __future__ import annotations

from dataclasses import replace

from ipa.control.engine.guards import bound_faults
from ipa.model.observation import Measured, Observation
from ipa.model.parts import is_shared
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import Rolling

Configs = tuple[StageConfig, ...]


def words(observation: Observation) -> str:
    """The lost replicas of each stage and why they are not ready; empty if there are none."""
    return "; ".join(
        f"{stage.lost_replicas} of {stage.running.value.replicas} replicas of {stage.stage} are lost: "
        f"{stage.lost}"
        for stage in observation.stages
        if stage.lost_replicas and isinstance(stage.running, Measured)
    )


def serving(observation: Observation, running: Configs) -> Configs:
    """The running configuration with the replicas that serve, at least one of each stage.

    As it is if it is not the observed one, or if several parts share the load.
    """
    if running != observation.running() or is_shared(running):
        return running
    return tuple(
        replace(config, replicas=max(1, config.replicas - stage.lost_replicas))
        for config, stage in zip(running, observation.stages, strict=True)
    )


def beside_lost(observation: Observation, pipeline: Pipeline, rolling: Rolling, wanted: Configs) -> Configs:
    """The wanted configurations with the lost replicas of stages that keep theirs on top.

    Never more of them than serve, but one: if all new ones are lost too, there is an end to it. `wanted` as
    it is where bounds do not allow that.
    """
    running = observation.running()
    if running is None or is_shared(running) or is_shared(wanted):
        return wanted
    found = tuple(
        replace(
            new, replicas=new.replicas + min(stage.lost_replicas, max(1, old.replicas - stage.lost_replicas))
        )
        if stage.lost_replicas and rolling.keeps_replicas(old, new)
        else new
        for old, new, stage in zip(running, wanted, observation.stages, strict=True)
    )
    return wanted if found == wanted or bound_faults(pipeline, found) else found


def counts(observation: Observation, wanted: Configs, rolling: Rolling) -> tuple[int, ...]:
    """The lost replicas of each stage that stay lost in a change to `wanted`; empty if there are none."""
    running = observation.running()
    if running is None or is_shared(running) or is_shared(wanted):
        return ()
    found = tuple(
        stage.lost_replicas if rolling.keeps_replicas(old, new) else 0
        for old, new, stage in zip(running, wanted, observation.stages, strict=True)
    )
    return found if any(found) else ()
