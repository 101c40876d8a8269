"""The doctor's checks of the target `local`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.files import load_pipeline
from ipa.model.findings import Severity
from ipa.targets.local.target import local_findings


@pytest.mark.parametrize(("cores", "count"), [(1.5, 0), (2.0, 1), (3.0, 1), (None, 0)])
def test_bounds_that_leave_nothing_to_router_and_queues_are_warned_of(
    root: Path, monkeypatch: pytest.MonkeyPatch, cores: float | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    pipeline = load_pipeline(root / "pipelines" / "digits" / "pipeline.yaml")
    pipeline = replace(pipeline, bounds=replace(pipeline.bounds, cores=cores))
    found = [each for each in local_findings({"digits": pipeline}) if each.state is Severity.WARN]
    assert len(found) == count
    for each in found:
        assert "all of the 2 cores" in each.seen
