"""Helpers that the tests of the service's manners share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.section import SeldonTarget
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_pipeline

Json = dict[str, Any]
NAMESPACE = "models"
NAMES = ("one", "two", "three", "four", "five", "six", "seven")


def named(name: str) -> Pipeline:
    """The sample pipeline under that name."""
    return replace(sample_pipeline(), targets={"seldon": SeldonTarget(name, NAMESPACE, "main")})


def edit(kube: FakeKube, name: str, replicas: int) -> None:
    """Another hand scales it."""

    def scale(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = replicas

    kube.edit(NAMESPACE, name, scale)


def patch_of(replicas: int) -> list[Json]:
    return [{"op": "replace", "path": "/spec/predictors/0/componentSpecs/0/replicas", "value": replicas}]
