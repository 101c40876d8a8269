"""The toy target under the contract of the Workload port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from tests.contract.workload_harness import Settling
from tests.fakes.toy.toy_target import TOY, ToyPlace, ToyWorkload


def toy_pipeline() -> Pipeline:
    """A chain of two stages."""
    stages = chain([Stage(name, (Variant("small"), Variant("large"))) for name in ("find", "read")])
    return Pipeline("shop", stages, Sla(1.0), {"default": Objective()}, targets={"toy": ToyPlace(4.0)})


class ToyHarness(Settling):
    """A folder of JSON files; time passes with each look."""

    target = TOY

    def __init__(self, folder: Path) -> None:
        self.pipeline = toy_pipeline()
        self.files = ToyWorkload(folder)
        self.workload = self.files

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        self.files.create(self.pipeline, configs)

    def let_time_pass(self) -> None:
        """Nothing: the files count looks."""

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        running = [state.config for state in self.files.read(self.pipeline).stages]
        by_hand = [replace(it, replicas=replicas) if it.stage == stage else it for it in running]
        self.files.put(self.pipeline, by_hand, "ada")

    def remove(self) -> None:
        self.files.remove(self.pipeline)

    def close(self) -> None:
        """Nothing is open."""
