"""The configurations of a pipeline that run side by side here, each with the replicas of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ipa.dataplane.stagequeue import QueueConfig
from ipa.model.parts import Configs
from ipa.model.pipeline import Stage
from ipa.model.plan import StageConfig
from ipa.targets.local.front import Front
from ipa.targets.local.replica import Phase, Replica


@dataclass(slots=True)
class StageRun:
    """The wanted and the running configuration of one stage, or of one part's stage."""

    part: str
    stage: Stage
    config: StageConfig
    queue: Front
    replicas: list[Replica] = field(default_factory=list)
    told: QueueConfig | None = None
    deaths: int = 0
    start_after_s: float = 0.0
    failure: str = ""

    def ready(self) -> list[Replica]:
        """The replicas that serve the wanted variant on the wanted cores."""
        return [it for it in self.replicas if it.phase is Phase.READY and it.serves(self.config)]

    def carries(self) -> bool:
        """True if enough replicas serve that are as wanted or larger, and the queue knows."""
        able = [it for it in self.replicas if it.phase is Phase.READY and it.carries(self.config)]
        told = self.told.running if self.told else {}
        return sum(told.get(it.url) == it.variant for it in able) >= self.config.replicas

    def is_settled(self) -> bool:
        """True if exactly what is wanted runs, and the queue knows."""
        ready = self.ready()
        wanted = (self.config.batch_size, {it.url: it.variant for it in ready})
        told = (self.told.batch_size, self.told.running) if self.told else None
        return len(ready) == len(self.replicas) == self.config.replicas and told == wanted


@dataclass(slots=True)
class PartRun:
    """One of the configurations side by side, under the name that router, queues and metrics know it by.

    If it `is_going`, it serves the requests that it has, and then ends.
    """

    name: str
    runs: list[StageRun]
    is_going: bool = False

    @property
    def configs(self) -> Configs:
        """The wanted configuration of each stage."""
        return tuple(run.config for run in self.runs)

    @property
    def has_ended(self) -> bool:
        """True if nothing of it is wanted, or left."""
        return self.is_going and not any(run.config.replicas or run.replicas for run in self.runs)

    def want(self, configs: Sequence[StageConfig]) -> None:
        """Set the wanted configuration of each stage."""
        self.is_going = False
        for run, config in zip(self.runs, configs, strict=True):
            run.config = config
