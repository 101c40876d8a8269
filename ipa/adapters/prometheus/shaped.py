"""The Metrics port on a cluster: each pipeline's in the dialect of the shape it runs in."""

from __future__ import annotations

from collections.abc import Callable

from ipa.adapters.prometheus.dialects import Dialect
from ipa.control.ports import Load, Metrics, Signals
from ipa.model.pipeline import Pipeline, Shape


class ShapedMetrics:
    """Reads our own router and queues where the shape is split, else Seldon's executor."""

    def __init__(self, of: Callable[[Dialect], Metrics]) -> None:
        self._by_shape = {Shape.SINGLE: of(Dialect.SELDON), Shape.SPLIT: of(Dialect.SPLIT)}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, as that dialect's metrics read them."""
        return self._of(pipeline).read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Its load alone, likewise."""
        return self._of(pipeline).load(pipeline, window_s)

    def _of(self, pipeline: Pipeline) -> Metrics:
        return self._by_shape[pipeline.seldon.shape if pipeline.seldon else Shape.SINGLE]
