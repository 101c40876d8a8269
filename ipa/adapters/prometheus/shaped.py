"""The Metrics port on a cluster: each pipeline is read in the dialect of its shape."""

from __future__ import annotations

from collections.abc import Callable

from ipa.adapters.prometheus.dialects import Dialect
from ipa.control.ports import Load, Metrics, Signals
from ipa.model.pipeline import Pipeline, Shape


class ShapedMetrics:
    """A reader of our own router and queues for the split shape, and of Seldon's executor for others."""

    def __init__(self, of: Callable[[Dialect], Metrics]) -> None:
        self._by_shape = {Shape.SINGLE: of(Dialect.SELDON), Shape.SPLIT: of(Dialect.SPLIT)}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """Return the pipeline's signals now, in its dialect."""
        return self._of(pipeline).read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Return the pipeline's load, in its dialect."""
        return self._of(pipeline).load(pipeline, window_s)

    def _of(self, pipeline: Pipeline) -> Metrics:
        return self._by_shape[pipeline.seldon.shape if pipeline.seldon else Shape.SINGLE]
