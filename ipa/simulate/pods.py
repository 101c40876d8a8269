"""The pods of a stage and of a part, as the simulated cluster has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from ipa.model.parts import Configs, share_of, with_share
from ipa.model.plan import StageConfig
from ipa.model.resources import Resources


@dataclass(slots=True, eq=False)
class Pod:
    """One replica of a template. Pending until `placed_s`, serving from `ready_s` on, gone at `gone_s`.

    A draining pod takes no more requests, and is gone once its work is done.
    """

    config: StageConfig
    template: str
    number: int
    held: Resources
    placed_s: float = inf
    ready_s: float = inf
    is_ready: bool = False
    is_draining: bool = False
    gone_s: float = inf


@dataclass(slots=True)
class StagePods:
    """The desired configuration of a stage, the one sent to its queue, and its pods, oldest first.

    The queue knows batch size, resident variant, and cores that are given in place. The wanted variant was
    asked for at `asked_s`, and the pods have it loaded from `loaded_s` on.
    """

    wanted: StageConfig
    told: StageConfig
    pods: list[Pod] = field(default_factory=list)
    asked_s: float = -inf
    loaded_s: float = -inf

    def live(self) -> list[Pod]:
        """The pods that do not drain."""
        return [pod for pod in self.pods if not pod.is_draining]


class PartPods:
    """The slot of one part: all its stages, and the percentage of requests sent to it now.

    The slot of a removed part `is_going`: it gets no requests, and is free once its pods are gone.
    """

    def __init__(self, part: Sequence[StageConfig], share_percent: int) -> None:
        self.share_percent = share_percent
        self.is_going = False
        self.runs = {config.stage: StagePods(config, config) for config in part}

    @property
    def wanted(self) -> Configs:
        """The part, with its desired share."""
        return tuple(run.wanted for run in self.runs.values())

    def want(self, part: Sequence[StageConfig]) -> None:
        """Run this part here from now on."""
        self.is_going = False
        for config in part:
            self.runs[config.stage].wanted = config

    def leave(self) -> None:
        """Remove its part."""
        self.is_going = True
        for run in self.runs.values():
            (run.wanted,) = with_share((run.wanted,), 0)

    @property
    def pods(self) -> list[Pod]:
        """All pods of all its stages."""
        return [pod for run in self.runs.values() for pod in run.pods]

    @property
    def wanted_percent(self) -> int:
        """The desired share of its part."""
        return share_of(self.wanted)
