"""The bench that `ipa profile` measures model servers on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ipa.model.pipeline import Pipeline
from ipa.profiling.measure import MeasurementBench
from ipa.targets.local.bench import Bench


@contextmanager
def measurement_bench(pipeline: Pipeline) -> Iterator[MeasurementBench]:
    """Model servers of the pipeline's variants on this machine; all have ended after the block."""
    with TemporaryDirectory(prefix="ipa-profile-") as folder, closing(Bench(pipeline, Path(folder))) as bench:
        yield bench
