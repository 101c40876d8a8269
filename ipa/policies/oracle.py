"""Our policy with the true future rate: the bound for any forecaster. Only a simulator knows that rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.plan import Plan
from ipa.policies.base import Policy, PolicyState

# The rate at a time of the world's clock, in requests a second.
Future = Callable[[float], float]
STEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Oracle:
    """Plans with `inner` for the highest true rate within the horizon."""

    inner: Policy
    future: Future
    name: str = "oracle"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for the true peak from now to the end of the forecast's horizon, in steps of 1 s."""
        steps = max(1, round(forecast.horizon_s / STEP_S))
        peak_rps = max(max(self.future(state.now_s + STEP_S * step), 0.0) for step in range(steps + 1))
        true = replace(
            forecast, point_rps=peak_rps, upper_rps=peak_rps, quantile=1.0, rung=self.name, peak_s=STEP_S
        )
        return self.inner.decide(observation, true, state)
