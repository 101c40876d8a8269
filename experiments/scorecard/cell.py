"""A cell: a configuration, its place and its load, with what is predicted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments.scorecard.draws import Draw, Place
from experiments.scorecard.figures import Figures, Row
from experiments.scorecard.measure import Programme, sent_of
from experiments.scorecard.predict import Predictions
from ipa.model.plan import StageConfig, in_words
from ipa.model.profile import Slowdowns


@dataclass(frozen=True)
class Cell:
    """One cell of a pipeline; `before` ran until the change to it, if anything did."""

    pipeline: str
    draw: Draw
    place: Place
    programme: Programme
    predictions: Predictions
    before: Sequence[StageConfig] = ()

    def predicted(self, slowdowns: Slowdowns) -> Figures:
        """The predictions with those slowdowns."""
        draw, percentile = self.draw, self.programme.percentile(self.draw.rate_rps)
        return self.predictions.of(draw.configs, self.before, draw.rate_rps, percentile, slowdowns)

    @cached_property
    def profiled(self) -> Figures:
        """The predictions by the profiles alone."""
        return self.predicted(())

    def times_s(self) -> list[float]:
        """When its requests are sent."""
        rate_rps = self.draw.rate_rps
        return self.programme.times_s(rate_rps, self.profiled.capacity_rps or rate_rps)

    def row(
        self,
        requests: Path,
        slowdowns: Slowdowns,
        busy_ratio: float | None = None,
        change_s: float | None = None,
    ) -> Row:
        """The predictions beside what the sender's file and the processes' counters tell."""
        percentile = self.programme.percentile(self.draw.rate_rps)
        sent = sent_of(self.pipeline, self.programme, requests)
        return Row(
            pipeline=self.pipeline,
            place=str(self.place),
            rate_rps=self.draw.rate_rps,
            configs=in_words(self.draw.configs),
            percentile=percentile,
            requests=len(sent.latencies_s),
            lost=sent.lost,
            profiled=self.profiled,
            believed=self.predicted(slowdowns),
            measured=sent.figures(percentile, busy_ratio, change_s),
        )
