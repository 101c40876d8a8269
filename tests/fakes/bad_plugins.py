"""Plug-ins that go wrong, each in one way, for tests to name as module:attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from threading import Event
from typing import Any

import numpy as np

from ipa.library import (
    Forecast,
    Observation,
    Peak,
    Plan,
    PolicyInputs,
    PolicyState,
    Series,
    make_policy,
)

NOT_CALLABLE = "a text"


@dataclass
class Changed:
    """A policy that plans as ours and changes the plan. A subclass says how."""

    inputs: PolicyInputs
    name: str = "changed"

    def __post_init__(self) -> None:
        self.ours = make_policy("ours", self.inputs)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Any:
        plan = self.ours.decide(observation, forecast, state)
        return self.changed(plan, plan.stages[0]) if plan.stages else plan

    def changed(self, plan: Plan, first: Any) -> Any:
        return plan


class Raising(Changed):
    def changed(self, plan: Plan, first: Any) -> Any:
        raise ValueError("no such\ncolumn")


class Leaving(Changed):
    def changed(self, plan: Plan, first: Any) -> Any:
        raise SystemExit(2)


def changing(change: Callable[[Plan, Any], Any]) -> type[Changed]:
    """A policy that answers what the function makes of our plan and its first stage."""
    return type("Changing", (Changed,), {"changed": lambda self, plan, first: change(plan, first)})


def with_first(**changes: Any) -> type[Changed]:
    """A policy whose plan has a first stage with these values."""
    return changing(lambda plan, first: replace(plan, stages=(replace(first, **changes), *plan.stages[1:])))


AnsweringNothing = changing(lambda plan, first: None)
FewerStages = changing(lambda plan, first: replace(plan, stages=plan.stages[1:]))
NotANumber = changing(lambda plan, first: replace(plan, objective=nan, latency_s=None))
OptimalNothing = changing(lambda plan, first: replace(plan, stages=()))
NoText = changing(lambda plan, first: replace(plan, note=None))
OtherStage = with_first(stage="nowhere")
OtherVariant = with_first(variant="huge")
HalfAReplica = with_first(replicas=0.5, batch_size=True)
NoCapacity = with_first(capacity_rps=0.0, cores=-1.0)
Unbounded = with_first(replicas=1000)


class Hanging(Changed):
    def changed(self, plan: Plan, first: Any) -> Any:
        Event().wait()


class FirstRaising(Changed):
    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Any:
        if observation.at_s < 30.0:
            raise ValueError("no such column")
        return super().decide(observation, forecast, state)


class NotMade(Changed):
    def __post_init__(self) -> None:
        raise KeyError("weights.bin")


class NoDecide:
    name = "no decide"

    def __init__(self, inputs: PolicyInputs) -> None:
        pass


class NoMemoryKind(Changed):
    def remember(self, observation: Observation, state: PolicyState) -> object:
        return None


class ForgettingHow(Changed):
    memory_kind = tuple

    def remember(self, observation: Observation, state: PolicyState) -> object:
        raise RuntimeError("disk full")


class RememberingAList(Changed):
    memory_kind = list

    def remember(self, observation: Observation, state: PolicyState) -> object:
        return [1.0]


class Undecided(Changed):
    def at_once(self, running: object) -> bool:
        raise ZeroDivisionError("division by zero")


class BadForecaster:
    """A forecaster that raises."""

    name = "bad"
    max_gap_ratio = 1.0

    def min_history_s(self, horizon_s: float) -> float:
        return 1.0

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> BadForecaster:
        return self

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Any:
        raise IndexError("list index out of range")


class HangingForecaster(BadForecaster):
    def peak(self, series: Series, horizon_s: float, quantile: float) -> Any:
        Event().wait()


class TupleForecaster(BadForecaster):
    def peak(self, series: Series, horizon_s: float, quantile: float) -> Any:
        return (1.0, 2.0)


class NanForecaster(BadForecaster):
    def peak(self, series: Series, horizon_s: float, quantile: float) -> Any:
        return Peak(nan, nan)


class ShortForecaster(BadForecaster):
    def peak(self, series: Series, horizon_s: float, quantile: float) -> Any:
        return Peak(1.0, 2.0)

    def peaks(self, series: Series, counts: Any, horizon_s: float, quantile: float) -> Any:
        return np.ones(1), np.ones(1)


class NoForecaster:
    name = "none"
