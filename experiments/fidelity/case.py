"""A real run and its simulation: a pipeline, when requests come, and a change on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa.files import load_pipeline, load_profiles
from ipa.forecast.arrivals import request_times, steps
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.policies.base import pinned
from ipa.policies.profiled import PlannerInputs, Profiled
from pipelines.digits.bench import tensor
from pipelines.digits.data import canvases
from pipelines.ocr.client import page_bodies, score_answer
from pipelines.signals import bench as signals
from pipelines.text import bench as text
from pipelines.text.data import Passage, passages

SEED, PAGES, SIGNALS = 7, 24, 60
# Requests a second in the first and the second half.
RATES = {"ocr": (4.0, 7.0), "digits": (40.0, 80.0)}


@dataclass(frozen=True, slots=True)
class Case:
    """Requests come at `times_s`; from `change_s` on `after` is wanted instead of `before`."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    times_s: NDArray[np.float64]
    duration_s: float
    change_s: float
    before: tuple[StageConfig, ...]
    after: tuple[StageConfig, ...]


# The stage that most of the work is for.
BUSIEST = {"ocr": "recognise", "digits": "classify"}


def case_of(name: str, seconds: int, *, shares_cpus: bool = False) -> Case:
    """The named pipeline for so long: half of it at each of its two rates, each with our plan for it.

    Its busiest stage has whole cores, which no quota holds back; with `shares_cpus` it has what is best.
    """
    pipeline = load_pipeline(Path("pipelines") / name / "pipeline.yaml")
    if not shares_cpus:
        pipeline = pinned(pipeline, [(BUSIEST[name], Pin(cores=1.0))])
    profiles = load_profiles(Path("profiles"), name)
    low_rps, high_rps = RATES[name]
    half = seconds // 2
    rates = steps((low_rps, half), (high_rps, seconds - half))
    planned = Profiled(PlannerInputs(pipeline, profiles, solver="exact"))
    before, after = (planned.plan(pipeline, rate).configs for rate in (low_rps, high_rps))
    times_s = request_times(rates, seed=SEED)
    return Case(pipeline, profiles, times_s, float(seconds), float(half), before, after)


def bodies_of(name: str) -> list[bytes]:
    """The requests that are sent in turn."""
    if name == "ocr":
        return page_bodies(SEED, PAGES)
    if name == "text":
        return [json.dumps({"inputs": text.passage_request(it)}).encode() for it in _passages()]
    if name == "signals":
        return [json.dumps(signals.body(row)).encode() for row in _signals().disturbed]
    images = canvases(training=False, placements=1, seed=SEED).images
    return [json.dumps({"inputs": [tensor("image", row)]}).encode() for row in images]


def scores_of(name: str, answers: Sequence[tuple[int, Mapping[str, Any]]]) -> list[float]:
    """The accuracy, 0 .. 1, of each answer to a body's number."""
    if name == "ocr":
        return [score_answer(SEED, PAGES, number, answer) for number, answer in answers]
    if name == "text":
        sent = _passages()
        return [text.pipeline_accuracy(sent[number], _outputs(answer)) for number, answer in answers]
    if name == "signals":
        truth = _signals().truth
        return [float(signals.right(signals.rows(it), truth[[number]])[0]) for number, it in answers]
    labels = canvases(training=False, placements=1, seed=SEED).labels
    return [float(answer["outputs"][0]["data"][0] == labels[number]) for number, answer in answers]


def _outputs(answer: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


def _signals() -> signals.Signals:
    return signals.signals(SIGNALS, SEED)


def _passages() -> list[Passage]:
    return passages(training=False, draws=1, seed=SEED)
