"""The pipeline of the stub that tests of real processes start."""

from __future__ import annotations

from dataclasses import replace

from experiments.attack.kills import stub_pipeline
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig


def one_stage() -> tuple[Pipeline, list[StageConfig]]:
    """A stage `say1` of the pipeline `echo` with one replica."""
    pipeline, (config,) = stub_pipeline(stages=1)
    return pipeline, [replace(config, replicas=1)]
