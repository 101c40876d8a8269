"""The Metrics port on a cluster: each pipeline's in the dialect of the shape it runs in."""

from __future__ import annotations

from collections.abc import Callable

from ipa.adapters.prometheus.dialects import Dialect
from ipa.control.ports import Metrics, Signals
from ipa.model.pipeline import Pipeline, Shape


class ShapedMetrics:
    """Reads our own router and queues where the shape is split, else Seldon's executor."""

    def __init__(self, of: Callable[[Dialect], Metrics]) -> None:
        self._by_shape = {Shape.SINGLE: of(Dialect.SELDON), Shape.SPLIT: of(Dialect.SPLIT)}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, as that dialect's metrics read them."""
        shape = pipeline.seldon.shape if pipeline.seldon else Shape.SINGLE
        return self._by_shape[shape].read(pipeline, window_s)
