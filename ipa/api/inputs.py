"""What decisions are made of: how old what was seen is, or why it was not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ipa.model.observation import Measured, Missing, MissingReason, Observation


@dataclass(frozen=True, slots=True)
class InputLive:
    """One input of the last tick. `missing` says why it was not seen, None where it was; `detail` in words.

    `age_s` is how old the sample was then; None where that is not known.
    """

    input: str
    stage: str = ""
    age_s: float | None = None
    missing: MissingReason | None = None
    detail: str = ""


def inputs_of(observation: Observation | None) -> tuple[InputLive, ...]:
    """Load and latency of the pipeline, and of each stage what runs, what is ready, and what arrives."""
    if observation is None:
        return ()
    found = [
        _input("load", observation.load),
        _input("arrival_rate", observation.arrival_rate_rps),
        _input("latency", observation.latency_s),
    ]
    for stage in observation.stages:
        found += [
            _input("running", stage.running, stage.stage),
            _input("ready_replicas", stage.ready_replicas, stage.stage),
            _input("arrival_rate", stage.arrival_rate_rps, stage.stage),
            _input("latency", stage.latency_s, stage.stage),
        ]
    return tuple(found)


def _input(name: str, seen: Measured[Any] | Missing, stage: str = "") -> InputLive:
    if isinstance(seen, Measured):
        return InputLive(name, stage, seen.age_s)
    return InputLive(name, stage, seen.age_s, seen.reason, seen.detail)
