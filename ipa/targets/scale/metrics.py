"""The metrics of the load of pipelines that somebody else serves, by the series of their sections."""

from __future__ import annotations

from dataclasses import fields

from ipa.adapters.prometheus.queries import Dialect, Matcher, Series
from ipa.model.pipeline import Pipeline
from ipa.targets.scale.section import KEY


def _given(pipeline: Pipeline, own: tuple[Matcher, ...], here: tuple[Matcher, ...]) -> Series:
    """The series of the pipeline's section, whose selectors say whose they are; none without a section."""
    if KEY not in pipeline.targets:
        return {}
    load = pipeline.targets[KEY].load
    given = {each.name: getattr(load, each.name) for each in fields(load)}
    return {name: selector for name, selector in given.items() if selector is not None}


# A rate and a quantile need two samples, of series that are scraped every 5 to 15 s.
GIVEN = Dialect("scale", _given, 30.0, 60.0, 30.0, identity_label="", stage_label="")
